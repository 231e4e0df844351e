-- Every report of the landed period that carries an effect has its example, with that effect and
-- that day, and no example is without its report. Fails for every row that has no partner.
select
    coalesce(report.report_id, example.report_id) as report_id,
    report.effect_on_flight as effect_of_report,
    example.effect_on_flight as effect_of_example
from (
    select report_id, incident_date, effect_on_flight
    from {{ ref('stg_incident_reports') }}
    where effect_on_flight is not null and {{ in_landed_period('incident_date') }}
) as report
full outer join (
    select report_id, incident_date, effect_on_flight
    from {{ ref('incident_triage_examples') }}
    where {{ in_landed_period('incident_date') }}
) as example
    on report.report_id = example.report_id and report.incident_date = example.incident_date
where
    report.report_id is null
    or example.report_id is null
    or report.effect_on_flight <> example.effect_on_flight
