-- Every sale of the rebuilt range has its row of features, with its price, and no row of features
-- is without a sale. Fails for every row on either side that has no partner.
select
    coalesce(sale.parcel_id, feature.parcel_id) as parcel_id,
    coalesce(sale.sale_date, feature.sale_date) as sale_date,
    sale.price as price_of_sale,
    feature.price as price_of_features
from (
    select parcel_id, sale_date, price
    from {{ ref('stg_house_sales') }}
    where {{ in_landed_period('sale_date', days_after=var('local_price_days')) }}
) as sale
full outer join (
    select parcel_id, sale_date, price
    from {{ ref('house_price_features') }}
    where {{ in_landed_period('sale_date', days_after=var('local_price_days')) }}
) as feature
    on sale.parcel_id = feature.parcel_id and sale.sale_date = feature.sale_date
where sale.parcel_id is null or feature.parcel_id is null or sale.price <> feature.price
