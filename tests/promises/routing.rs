//! Which service a request goes to, and what is said when there is none.

use crate::support::rota::PLAIN;
use crate::support::{Origin, Rota};

/// A rota whose services are named after their origins' bodies; `routes` are (host, path, service).
fn routed(services: &[&'static str], routes: &[(&str, &str, &str)]) -> (Rota, Vec<Origin>) {
    let origins: Vec<_> = services.iter().map(|name| Origin::fixed(name)).collect();
    let mut text = PLAIN.to_owned();
    for (name, origin) in services.iter().zip(&origins) {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nservers = [\"{}\"]\n",
            origin.address()
        );
    }
    for (host, path, service) in routes {
        text +=
            &format!("[[route]]\nhost = \"{host}\"\npath = \"{path}\"\nservice = \"{service}\"\n");
    }
    (Rota::start(&text), origins)
}

fn assert_goes(rota: &Rota, host: &str, path: &str, service: &str) {
    let answer = rota.get(host, path);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, service),
        "{host}{path}"
    );
}

#[test]
fn the_most_specific_host_wins_whatever_its_case_and_port() {
    let routes = [
        ("shop.example.com", "/", "shop"),
        ("*.example.com", "/", "wild"),
        ("*.deep.example.com", "/", "deep"),
        ("*", "/", "any"),
    ];
    let (rota, _origins) = routed(&["shop", "wild", "deep", "any"], &routes);
    for host in [
        "shop.example.com",
        "SHOP.Example.COM",
        "shop.example.com:8443",
        "shop.example.com.",
    ] {
        assert_goes(&rota, host, "/", "shop");
    }
    for host in ["a.example.com", "a.b.example.com", "deep.example.com"] {
        assert_goes(&rota, host, "/", "wild");
    }
    assert_goes(&rota, "x.deep.example.com", "/", "deep");
    for host in ["example.com", "other.org", "127.0.0.1", "[::1]:80"] {
        assert_goes(&rota, host, "/", "any");
    }
}

#[test]
fn the_longest_prefix_of_whole_segments_wins() {
    let routes = [
        ("a.test", "/", "root"),
        ("a.test", "/news", "news"),
        ("a.test", "/news/old", "old"),
    ];
    let (rota, _origins) = routed(&["root", "news", "old"], &routes);
    for path in ["/", "/newsletter", "/new", "/x/news"] {
        assert_goes(&rota, "a.test", path, "root");
    }
    for path in ["/news", "/news/", "/news?x=/old", "/news/x", "/news/older"] {
        assert_goes(&rota, "a.test", path, "news");
    }
    for path in ["/news/old", "/news/old/1"] {
        assert_goes(&rota, "a.test", path, "old");
    }
}

#[test]
fn a_host_or_path_without_a_route_is_404() {
    let (rota, origins) = routed(&["app"], &[("a.test", "/only", "app")]);
    assert_eq!(rota.get("b.test", "/only").status, 404);
    assert_eq!(rota.get("a.test", "/other").status, 404);
    assert_eq!(origins[0].count(), 0);
}

#[test]
fn a_service_with_nobody_on_the_rota_is_503_with_retry_after() {
    let rota = Rota::start(&format!(
        "{PLAIN}[[service]]\nname = \"app\"\nservers = [{{ address = \"127.0.0.1:1\", weight = 0 }}]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    ));
    let answer = rota.get("a", "/");
    assert_eq!(answer.status, 503);
    let seconds = answer.field("retry-after").expect("Retry-After");
    assert!(seconds.parse::<u32>().is_ok(), "{seconds}");
}

#[test]
fn a_path_that_leads_to_two_routes_is_refused() {
    let routes = [("a.test", "/", "root"), ("a.test", "/admin", "admin")];
    let (rota, origins) = routed(&["root", "admin"], &routes);
    let ambiguous = [
        "/x/../admin",
        "/%61dmin",
        "//admin",
        "/./admin",
        "/admin/..",
        "/admin/%2e%2e/x",
        "/x/%2e%2e/admin",
        "/x/..;/admin",
        "/x\\..\\admin",
        "/admin;v=1",
    ];
    for path in ambiguous {
        assert_eq!(rota.get("a.test", path).status, 400, "{path}");
    }
    assert_eq!(origins[0].count() + origins[1].count(), 0);
}

#[test]
fn a_path_that_leads_to_one_route_is_forwarded_untouched() {
    let routes = [("a.test", "/", "root"), ("a.test", "/admin", "admin")];
    let (rota, origins) = routed(&["root", "admin"], &routes);
    let plain = [
        "/a%20b",
        "/a//b",
        "/a/./b",
        "/a/../b",
        "/a;v=1/b",
        "/%C3%A9?q=%00",
        "/a%2Fb",
    ];
    for path in plain {
        assert_goes(&rota, "a.test", path, "root");
        assert_eq!(origins[0].requests().last().unwrap().target, path);
    }
    for path in ["/admin/a%20b", "/admin/x;v=1", "/admin//x"] {
        assert_goes(&rota, "a.test", path, "admin");
        assert_eq!(origins[1].requests().last().unwrap().target, path);
    }
}

#[test]
fn a_nul_or_a_broken_escape_in_a_path_is_refused() {
    let (rota, origins) = routed(&["root"], &[("*", "/", "root")]);
    for path in ["/%00", "/a%00b", "/%", "/%4", "/%zz", "/a%2"] {
        assert_eq!(rota.get("a.test", path).status, 400, "{path}");
    }
    assert_eq!(origins[0].count(), 0);
}

#[test]
fn ten_thousand_hosts_are_routed_each_to_its_own() {
    let origins = [Origin::fixed("even"), Origin::fixed("odd")];
    let mut text = PLAIN.to_owned();
    for (name, origin) in ["even", "odd"].iter().zip(&origins) {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nservers = [\"{}\"]\n",
            origin.address()
        );
    }
    for number in 0..10_000 {
        let service = ["even", "odd"][number % 2];
        text += &format!("[[route]]\nhost = \"h{number}.test\"\nservice = \"{service}\"\n");
    }
    let rota = Rota::start(&text);
    for number in (0..10_000).step_by(997) {
        assert_goes(
            &rota,
            &format!("h{number}.test"),
            "/",
            ["even", "odd"][number % 2],
        );
    }
    assert_eq!(rota.get("h10000.test", "/").status, 404);
}

#[test]
fn a_challenge_path_in_disguise_reaches_no_server() {
    let (rota, origins) = routed(&["app"], &[("*", "/", "app")]);
    for path in [
        "/.well-known//acme-challenge/t",
        "/x/../.well-known/acme-challenge/t",
        "/%2ewell-known/acme-challenge/t",
        "/.well-known/acme-challenge%2ft",
        "/.well-known;x/acme-challenge/t",
    ] {
        assert_eq!(rota.get("a.test", path).status, 400, "{path}");
    }
    assert_eq!(origins[0].requests().len(), 0);
}
