{#- Schemas bear the plain names that models configure, in every target: what reads a feature table
    finds it under one name. Environments differ by database. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ target.schema if custom_schema_name is none else custom_schema_name | trim }}
{%- endmacro %}
