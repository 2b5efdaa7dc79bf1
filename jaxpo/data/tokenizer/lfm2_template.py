"""LFM2's chat template as Jinja, written beside every tokenizer of ours. `chat.py` renders the same text as spans."""

RENDERED_AS = "lfm2-1"
"""The first version, which renders like this one whatever it could render; part of the hashes of tokenised rows."""

EARLIER = ("4205a6c8eb84df53a046f4ed5798ba4878b94eb48f916fbca63cde9d2448204b",)
"""sha256 of earlier versions: a folder that holds one of them has our own template."""

CHAT_TEMPLATE = r"""{{- bos_token -}}
{%- macro argument(value) -%}
  {%- if value is none -%}
    {{- "None" -}}
  {%- elif value is boolean -%}
    {{- "True" if value else "False" -}}
  {%- else -%}
    {{- value | tojson -}}
  {%- endif -%}
{%- endmacro -%}
{%- macro arguments(given) -%}
  {%- if given is string -%}
    {{- given -}}
  {%- elif given -%}
    {%- for name, value in given.items() -%}
      {{- ("" if loop.first else ", ") + name + "=" + argument(value) -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- macro calls(given) -%}
  {{- "<|tool_call_start|>[" -}}
  {%- for call in given -%}
    {%- set inner = call["function"] if call["function"] else call -%}
    {{- ("" if loop.first else ", ") + inner["name"] + "(" + arguments(inner["arguments"]) + ")" -}}
  {%- endfor -%}
  {{- "]<|tool_call_end|>" -}}
{%- endmacro -%}
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
  {%- set content = message["content"] -%}
  {%- set content = "" if content is none else content if content is string else content | tojson -%}
  {%- if message["role"] == "tool" -%}
    {%- set content = "<|tool_response_start|>" + content + "<|tool_response_end|>" -%}
  {%- elif message["role"] == "assistant" -%}
    {%- if message["tool_calls"] -%}
      {%- set content = calls(message["tool_calls"]) + content -%}
    {%- endif -%}
    {%- set thought = message["reasoning_content"] or message["thinking"] -%}
    {%- if thought -%}
      {%- set content = "<think>" + thought + "</think>" + content -%}
    {%- endif -%}
  {%- endif -%}
  {{- "<|im_start|>" + message["role"] + "\n" + content + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\n" -}}
{%- endif -%}
"""
