{#- Fails for every row whose text is longer than `characters`. -#}
{% test max_length(model, column_name, characters) %}
    select *
    from {{ model }}
    where length({{ column_name }}) > {{ characters }}
{% endtest %}
