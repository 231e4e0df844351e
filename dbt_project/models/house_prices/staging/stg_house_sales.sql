-- One row for each row landed, with names that say what is in them and stated types. Floating-point
-- columns are `double` by name: dbt's type_float is 32 bits wide in DuckDB and 64 in Snowflake.
select
    cast(parcel_id as {{ dbt.type_bigint() }}) as parcel_id,
    cast(sale_date as date) as sale_date,
    cast(price as {{ dbt.type_bigint() }}) as price,
    cast(bedrooms as {{ dbt.type_bigint() }}) as bedrooms,
    cast(bathrooms as double) as bathrooms,
    cast(sqft_living as {{ dbt.type_bigint() }}) as living_area_sqft,
    cast(sqft_lot as {{ dbt.type_bigint() }}) as lot_area_sqft,
    cast(sqft_above as {{ dbt.type_bigint() }}) as above_ground_sqft,
    cast(sqft_basement as {{ dbt.type_bigint() }}) as basement_sqft,
    cast(floors as double) as floors,
    cast(waterfront as boolean) as is_waterfront,
    cast(view as {{ dbt.type_bigint() }}) as view_rating,
    cast(condition as {{ dbt.type_bigint() }}) as condition_rating,
    cast(grade as {{ dbt.type_bigint() }}) as building_grade,
    cast(yr_built as {{ dbt.type_bigint() }}) as year_built,
    cast(nullif(yr_renovated, 0) as {{ dbt.type_bigint() }}) as year_renovated,
    cast(zipcode as {{ dbt.type_string() }}) as zip_code,
    cast(lat as double) as latitude,
    cast(long as double) as longitude,
    cast(sqft_living15 as {{ dbt.type_bigint() }}) as neighbours_living_area_sqft,
    cast(sqft_lot15 as {{ dbt.type_bigint() }}) as neighbours_lot_area_sqft
from {{ source('raw', 'house_sales') }}
