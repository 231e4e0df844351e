-- A leak test. The local price level, worked out again sale by sale instead of day by day, from
-- sales strictly before the day of the sale it describes. Fails for every row that says otherwise.
with recomputed as (

    select
        feature.parcel_id,
        feature.sale_date,
        feature.local_price_per_sqft,
        feature.local_sales,
        exp(avg(ln(cast(earlier.price as double) / earlier.living_area_sqft)))
            as expected_price_per_sqft,
        count(earlier.parcel_id) as expected_sales
    from {{ ref('house_price_features') }} as feature
    left join {{ ref('stg_house_sales') }} as earlier
        on
            feature.zip_code = earlier.zip_code
            and {{ dbt.datediff('earlier.sale_date', 'feature.sale_date', 'day') }}
            between 1 and {{ var('local_price_days') }}
            and earlier.price > 0
            and earlier.living_area_sqft > 0
            and {{ in_landed_period(
                'earlier.sale_date',
                days_before=var('local_price_days'),
                days_after=var('local_price_days')
            ) }}
    where {{ in_landed_period('feature.sale_date', days_after=var('local_price_days')) }}
    group by
        feature.parcel_id,
        feature.sale_date,
        feature.local_price_per_sqft,
        feature.local_sales

)

select *
from recomputed
where
    local_sales <> expected_sales
    or (local_price_per_sqft is null) <> (expected_price_per_sqft is null)
    -- the model adds logarithms of six decimals and rounds to cents
    or abs(local_price_per_sqft - expected_price_per_sqft) > 0.02
