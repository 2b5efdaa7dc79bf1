"""Chat templates as checkpoints bring them: none renders like LFM2's."""

_TURNS = r"""{%- for message in turns -%}
  {{- "<|im_start|>" + message.role + "\n" -}}
  {%- if message.role == "assistant" -%}
    {%- generation -%}
    {%- if message.thinking is defined and loop.index0 == last.answer -%}
      {{- "<think>" + message.thinking + "</think>" -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
      {{- ("<|tool_call_start|>[" if loop.first else ", ") + call.function.name + "(" -}}
      {%- for name, value in call.function.arguments.items() -%}
        {{- (", " if not loop.first else "") + name + "=" + (value | tojson) -}}
      {%- endfor -%}
      {{- ")" + ("]<|tool_call_end|>" if loop.last else "") -}}
    {%- endfor -%}
    {{- message.content + "<|im_end|>\n" -}}
    {%- endgeneration -%}
  {%- else -%}
    {{- message.content + "<|im_end|>\n" -}}
  {%- endif -%}
{%- endfor -%}
"""

NEWER = (
    r"""{{- bos_token -}}
{%- set system = namespace(text="") -%}
{%- if messages[0].role == "system" -%}
  {%- set system.text = messages[0].content -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- if tools -%}
  {%- set system.text = system.text + ("\n\n" if system.text else "") + "List of tools: " + (tools | tojson) -%}
{%- endif -%}
{%- if system.text -%}{{- "<|im_start|>system\n" + system.text + "<|im_end|>\n" -}}{%- endif -%}
{%- set last = namespace(answer=-1) -%}
{%- for message in turns -%}
  {%- if message.role == "assistant" -%}{%- set last.answer = loop.index0 -%}{%- endif -%}
{%- endfor -%}
"""
    + _TURNS
    + """{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n" -}}{%- endif -%}"""
)
"""In the form of LFM2.5: tools without marks, calls, reasoning of the last answer alone, generation marks."""

UNMARKED = NEWER.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
"""The same without generation marks: answers are found by comparing conversations."""

DEFAULT_SYSTEM = r"""{{- bos_token -}}
{%- if not messages or messages[0]["role"] != "system" -%}
  {{- "<|im_start|>system\nYou are Acme Bot.<|im_end|>\n" -}}
{%- endif -%}
{%- for message in messages -%}
  {{- "<|im_start|>" + message["role"] + "\n" + message["content"] + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n" -}}{%- endif -%}"""
"""A default system turn; reads neither tools, nor calls, nor reasoning."""

PREFILLED = r"""{{- bos_token -}}
{%- for message in messages -%}
  {{- "<|im_start|>" + message["role"] + "\n" + message["content"] + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n<think>" -}}{%- endif -%}"""
"""Asks for answers after a mark that its conversations do not have."""
