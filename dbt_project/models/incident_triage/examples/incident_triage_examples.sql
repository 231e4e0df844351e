{{ config(
    materialized='incremental',
    incremental_strategy='replace_period',
    incremental_predicates=[in_landed_period('incident_date')],
    on_schema_change='fail',
) }}

with reports as (

    select
        report_id,
        incident_date,
        phase_of_flight,
        effect_on_flight,
        {{ normalize_text('remark') }} as normalized_remark,
        coalesce({{ normalize_text('phase_of_flight') }}, 'unknown') as phase
    from {{ ref('stg_incident_reports') }}
    where
        effect_on_flight is not null
        {%- if is_incremental() %}
        and {{ in_landed_period('incident_date') }}
        {%- endif %}

)

select
    report_id,
    incident_date,
    normalized_remark,
    phase_of_flight,
    effect_on_flight,
    'Phase: ' || phase
    || '. Remark: ' || trim(left(normalized_remark, {{ var('remark_characters') }}))
    || '. Effect:' as prompt,
    case effect_on_flight
        when 'Precautionary Landing' then 'landing'
        when 'Aborted Take-off' then 'abort'
        when 'Engine Shut Down' then 'shutdown'
        else lower(effect_on_flight)
    end as completion,
    length(normalized_remark) > {{ var('remark_characters') }} as remark_is_cut
from reports
