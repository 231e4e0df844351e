-- One row for each row landed, with names that say what is in them and stated types. Floating-point
-- columns are `double` by name: dbt's type_float is 32 bits wide in DuckDB and 64 in Snowflake.
select
    cast(report_id as {{ dbt.type_bigint() }}) as report_id,
    cast(incident_date as date) as incident_date,
    cast(remarks as {{ dbt.type_string() }}) as remark,
    cast(opid as {{ dbt.type_string() }}) as operator_code,
    cast(operator as {{ dbt.type_string() }}) as operator,
    cast(atype as {{ dbt.type_string() }}) as aircraft_type,
    cast(phase_of_flt as {{ dbt.type_string() }}) as phase_of_flight,
    cast(ac_mass as {{ dbt.type_bigint() }}) as aircraft_mass_class,
    cast(num_engs as {{ dbt.type_bigint() }}) as engines,
    cast(time_of_day as {{ dbt.type_string() }}) as time_of_day,
    cast(state as {{ dbt.type_string() }}) as state,
    cast(height as double) as height_feet,
    cast(speed as double) as speed_knots,
    cast(effect as {{ dbt.type_string() }}) as effect_on_flight,
    cast(sky as {{ dbt.type_string() }}) as sky,
    cast(species as {{ dbt.type_string() }}) as species,
    cast(birds_seen as {{ dbt.type_string() }}) as birds_seen,
    cast(birds_struck as {{ dbt.type_string() }}) as birds_struck
from {{ source('raw', 'incident_reports') }}
