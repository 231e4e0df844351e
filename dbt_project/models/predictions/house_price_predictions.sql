{{ config(materialized='view', schema='predictions') }}

select
    predicted.period,
    predicted.parcel_id,
    predicted.sale_date,
    predicted.prediction as predicted_price,
    sale.price as actual_price,
    ln(predicted.prediction / nullif(cast(sale.price as double), 0)) as log_ratio,
    100 * abs(predicted.prediction - sale.price)
    / nullif(cast(sale.price as double), 0) as absolute_percentage_error,
    predicted.model_version,
    predicted.training_job,
    predicted.predicted_at
from {{ source('predictions', 'house_prices') }} as predicted
left join {{ ref('house_price_features') }} as sale
    on predicted.parcel_id = sale.parcel_id and predicted.sale_date = sale.sale_date
