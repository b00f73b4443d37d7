//! Promises about certificates while the wall clock of the load balancer is set by days: no storm of orders, and nothing stops being served.

use std::time::Duration;

use super::pebble::Pebble;
use super::support::faketime::FakeTime;
use super::support::rota::{Place, said};
use super::support::{Origin, Rota, Signal, eventually, stays};
use super::{eventually_served, file, is_served, orders, reloads};

const NINETY_DAYS: u64 = 90 * 86_400;

/// The clock is set, and the task looks: by itself it would within ten minutes.
fn set(clock: &FakeTime, rota: &Rota, offset: &str) {
    clock.set(offset);
    let before = reloads(rota, "ok");
    rota.signal(Signal::HUP);
    eventually("the file is read", || reloads(rota, "ok") > before);
}

#[test]
fn a_clock_that_is_set_by_days_makes_one_renewal_and_no_storm_and_all_is_served_on() {
    let (place, clock) = FakeTime::of(Place::new());
    let origin = Origin::fixed("ok");
    let pebble = Pebble::start(place.http, NINETY_DAYS);
    let rota = place.start(&file(&pebble, &origin, &["shop.test"]));
    let client = pebble.client("shop.test");
    eventually_served(&rota, &client);
    assert_eq!(orders(&rota, "ok"), 1.0);

    set(&clock, &rota, "+65d");
    eventually("it is renewed", || orders(&rota, "ok") == 2.0);
    eventually("it is said why no other follows", || {
        said(&rota.command(&["certs"])).contains("is the clock of this machine right")
    });
    set(&clock, &rota, "+66d");
    stays("no other is ordered", Duration::from_secs(2), || {
        orders(&rota, "ok") == 2.0 && is_served(&rota, &client)
    });

    // Over by this clock, and what the CA issues is, too.
    set(&clock, &rota, "+200d");
    eventually("it is tried once", || orders(&rota, "failed") >= 1.0);
    stays("and rests", Duration::from_secs(2), || {
        orders(&rota, "failed") == 1.0 && is_served(&rota, &client)
    });

    // Not begun by this one.
    for offset in ["-400d", "+0d"] {
        set(&clock, &rota, offset);
        stays(offset, Duration::from_secs(2), || {
            orders(&rota, "ok") == 2.0 && is_served(&rota, &client)
        });
    }
    let shown = said(&rota.command(&["certs"]));
    assert!(
        !shown.contains("ended already"),
        "what was ahead is forgotten: {shown}"
    );
    assert_eq!(rota.metric("rota_panics_total", &[]), 0.0);
    assert!(rota.stop().success());
}
