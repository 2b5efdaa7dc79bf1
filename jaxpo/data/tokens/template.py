"""LFM2's chat template as Jinja, written beside every exported tokenizer. `chat.py` renders the same text as spans."""

TEMPLATE_VERSION = "lfm2-1"

CHAT_TEMPLATE = r"""{{- bos_token -}}
{%- set state = namespace(system="", turns=messages) -%}
{%- if messages and messages[0]["role"] == "system" -%}
  {%- set state.system = messages[0]["content"] -%}
  {%- set state.turns = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
  {%- if state.system -%}{%- set state.system = state.system + "\n" -%}{%- endif -%}
  {%- set state.system = state.system + "List of tools: <|tool_list_start|>[" -%}
  {%- for tool in tools -%}
    {%- if not loop.first -%}{%- set state.system = state.system + ", " -%}{%- endif -%}
    {%- set state.system = state.system + (tool if tool is string else tool | tojson) -%}
  {%- endfor -%}
  {%- set state.system = state.system + "]<|tool_list_end|>" -%}
{%- endif -%}
{%- if state.system -%}
  {{- "<|im_start|>system\n" + state.system + "<|im_end|>\n" -}}
{%- endif -%}
{%- for message in state.turns -%}
  {%- set content = message["content"] if message["content"] is string else message["content"] | tojson -%}
  {%- if message["role"] == "tool" -%}
    {%- set content = "<|tool_response_start|>" + content + "<|tool_response_end|>" -%}
  {%- endif -%}
  {{- "<|im_start|>" + message["role"] + "\n" + content + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\n" -}}
{%- endif -%}
"""
