{#- Text without what two writers of the same words do differently: letters in lower case, and one
    space for whatever is neither a letter nor a digit. Letters beyond a to z count as such gaps. -#}
{% macro normalize_text(text) %}
    {{ return(adapter.dispatch('normalize_text', 'sf_sagemaker')(text)) }}
{% endmacro %}


{#- DuckDB replaces the first match only, unless told otherwise. -#}
{% macro default__normalize_text(text) %}
    {{ return("trim(regexp_replace(lower(" ~ text ~ "), '[^a-z0-9]+', ' ', 'g'))") }}
{% endmacro %}


{% macro snowflake__normalize_text(text) %}
    {{ return("trim(regexp_replace(lower(" ~ text ~ "), '[^a-z0-9]+', ' '))") }}
{% endmacro %}
