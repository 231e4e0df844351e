{#- Fails for every row whose value lies outside [min_value, max_value], or is not above `above`.
    A missing value passes: not_null is another test's matter. -#}
{% test accepted_range(model, column_name, min_value=none, max_value=none, above=none) %}
    {%- set violations = [] -%}
    {%- if min_value is not none -%}{%- do violations.append(column_name ~ ' < ' ~ min_value) -%}{%- endif -%}
    {%- if max_value is not none -%}{%- do violations.append(column_name ~ ' > ' ~ max_value) -%}{%- endif -%}
    {%- if above is not none -%}{%- do violations.append(column_name ~ ' <= ' ~ above) -%}{%- endif -%}
    {%- if not violations -%}
        {{ exceptions.raise_compiler_error("accepted_range needs min_value, max_value or above") }}
    {%- endif -%}
    select *
    from {{ model }}
    where {{ violations | join(' or ') }}
{% endtest %}
