{#- The period that this run landed, as {start, end} (dates, half-open), from the variables
    `period_start` and `period_end`; none where neither is given. -#}
{% macro landed_period() %}
    {%- set bounds = [] -%}
    {%- for name in ['period_start', 'period_end'] -%}
        {%- set value = var(name, none) -%}
        {%- if value is not none -%}
            {%- set value = value | string -%}
            {%- if not modules.re.fullmatch('\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])', value) -%}
                {{ exceptions.raise_compiler_error(
                    name ~ " is '" ~ value ~ "': write a date as YYYY-MM-DD") }}
            {%- endif -%}
            {%- do bounds.append(modules.datetime.date.fromisoformat(value)) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if bounds | length == 1 -%}
        {{ exceptions.raise_compiler_error(
            "only one of period_start and period_end is given: give both, or neither to rebuild everything") }}
    {%- endif -%}
    {%- if bounds and bounds[0] >= bounds[1] -%}
        {{ exceptions.raise_compiler_error(
            "period_start " ~ bounds[0] ~ " must be earlier than period_end " ~ bounds[1] ~ ", which is exclusive") }}
    {%- endif -%}
    {{ return({'start': bounds[0], 'end': bounds[1]} if bounds else none) }}
{% endmacro %}


{#- The condition that a date column lies in the landed period, widened by whole days on either
    side; true of every row where no period was given. Bounds are literals, so that a warehouse
    prunes by them. -#}
{% macro in_landed_period(column, days_before=0, days_after=0) %}
    {%- set period = landed_period() -%}
    {%- if period is none -%}
        {{ return('true') }}
    {%- endif -%}
    {%- set start = period.start - modules.datetime.timedelta(days=days_before) -%}
    {%- set end = period.end + modules.datetime.timedelta(days=days_after) -%}
    {{ return(
        column ~ " >= cast('" ~ start ~ "' as date) and " ~ column ~ " < cast('" ~ end ~ "' as date)"
    ) }}
{% endmacro %}
