{#- The incremental strategy `replace_period`: the rows that the model's `incremental_predicates`
    describe make way for the rows that the model has selected, in one transaction. Unlike a merge
    or delete+insert by key, rows that have vanished upstream vanish here too. -#}
{% macro get_incremental_replace_period_sql(arg_dict) %}
    {%- if not arg_dict['incremental_predicates'] -%}
        {{ exceptions.raise_compiler_error(
            "the strategy replace_period of " ~ arg_dict['target_relation'] ~ " needs"
            " incremental_predicates that say which rows are replaced; see in_landed_period") }}
    {%- endif -%}
    {{ return(adapter.dispatch('replace_period_sql', 'sf_sagemaker')(
        arg_dict['target_relation'],
        arg_dict['temp_relation'],
        arg_dict['incremental_predicates'],
        get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name'))
    )) }}
{% endmacro %}


{#- dbt-duckdb runs the statements of a model in a transaction of its own. -#}
{% macro default__replace_period_sql(target_relation, new_rows, predicates, columns) %}
    delete from {{ target_relation }}
    where ({{ predicates | join(') and (') }});

    insert into {{ target_relation }} ({{ columns }})
    select {{ columns }} from {{ new_rows }}
{% endmacro %}


{#- dbt-snowflake commits after every statement unless told otherwise. -#}
{% macro snowflake__replace_period_sql(target_relation, new_rows, predicates, columns) %}
    {{ return(snowflake_dml_explicit_transaction(
        sf_sagemaker.default__replace_period_sql(target_relation, new_rows, predicates, columns)
    )) }}
{% endmacro %}
