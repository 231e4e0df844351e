{#- A landed sale changes the local price level of sales up to `lookback` days later, and those
    read up to `lookback` days back in their turn. -#}
{%- set lookback = var('local_price_days') -%}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_period',
    incremental_predicates=[in_landed_period('sale_date', days_after=lookback)],
    on_schema_change='fail',
) }}

with sales as (

    select *
    from {{ ref('stg_house_sales') }}
    {%- if is_incremental() %}
    where {{ in_landed_period('sale_date', days_before=lookback, days_after=lookback) }}
    {%- endif %}

),

rebuilt_sales as (

    select
        *,
        cast(extract(year from sale_date) as {{ dbt.type_bigint() }}) as sale_year
    from sales
    {%- if is_incremental() %}
    where {{ in_landed_period('sale_date', days_after=lookback) }}
    {%- endif %}

),

-- Decimals add up to the same sum in whatever order a warehouse reads the rows, doubles don't:
-- features that are rebuilt from the same sales must be the same to the last bit.
daily_prices as (

    select
        zip_code,
        sale_date,
        count(*) as sales,
        sum(
            cast(ln(cast(price as double) / living_area_sqft) as {{ dbt.type_numeric() }})
        ) as log_price_per_sqft
    from sales
    where price > 0 and living_area_sqft > 0
    group by zip_code, sale_date

),

local_prices as (

    select
        wanted.zip_code,
        wanted.sale_date,
        coalesce(sum(earlier.sales), 0) as local_sales,
        exp(
            cast(sum(earlier.log_price_per_sqft) as double) / cast(sum(earlier.sales) as double)
        ) as local_price_per_sqft
    from (select distinct zip_code, sale_date from rebuilt_sales) as wanted
    left join daily_prices as earlier
        on
            wanted.zip_code = earlier.zip_code
            -- a price of the day itself is not known when a house is priced that day
            and wanted.sale_date > earlier.sale_date
            and earlier.sale_date >= {{ dbt.dateadd('day', -lookback, 'wanted.sale_date') }}
    group by wanted.zip_code, wanted.sale_date

)

select
    sale.parcel_id,
    sale.sale_date,
    sale.price,
    sale.living_area_sqft,
    sale.lot_area_sqft,
    sale.above_ground_sqft,
    sale.basement_sqft,
    sale.bedrooms,
    sale.bathrooms,
    sale.floors,
    sale.is_waterfront,
    sale.view_rating,
    sale.condition_rating,
    sale.building_grade,
    sale.sale_year - sale.year_built as age_years,
    coalesce(sale.year_renovated <= sale.sale_year, false) as was_renovated,
    case
        when sale.year_renovated <= sale.sale_year then sale.sale_year - sale.year_renovated
    end as years_since_renovation,
    sale.zip_code,
    sale.latitude,
    sale.longitude,
    sale.neighbours_living_area_sqft,
    sale.neighbours_lot_area_sqft,
    cast(sale.living_area_sqft as double)
    / nullif(sale.neighbours_living_area_sqft, 0) as living_area_to_neighbours,
    cast(sale.lot_area_sqft as double)
    / nullif(sale.neighbours_lot_area_sqft, 0) as lot_area_to_neighbours,
    -- whole cents are the same on every warehouse, the last bit of exp() isn't
    round(local_price.local_price_per_sqft, 2) as local_price_per_sqft,
    cast(coalesce(local_price.local_sales, 0) as {{ dbt.type_bigint() }}) as local_sales
from rebuilt_sales as sale
left join local_prices as local_price
    on sale.zip_code = local_price.zip_code and sale.sale_date = local_price.sale_date
