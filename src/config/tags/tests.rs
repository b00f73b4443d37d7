//! Tags as people write them, and what comes of each.

use super::*;
use proptest::prelude::*;

fn terms(grammar: TagGrammar, hosts: &[&str]) -> Tags {
    Tags {
        grammar,
        hosts: hosts
            .iter()
            .map(|host| HostPattern::parse(host).unwrap())
            .collect(),
    }
}

fn tagged(tags: &[&str], grammar: TagGrammar) -> Tagged {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    read(&tags, &terms(grammar, &["*"]))
}

fn routes(tagged: &Tagged) -> Vec<String> {
    tagged
        .routes
        .iter()
        .map(|(host, path)| format!("{host}{path}"))
        .collect()
}

fn whys(tagged: &Tagged) -> String {
    let lines = tagged
        .refused
        .iter()
        .map(|refused| format!("{}: {}\n", refused.tag, refused.why));
    lines.collect()
}

#[test]
fn each_host_has_each_path_and_without_one_the_root() {
    let ours = |tags: &[&str]| tagged(tags, TagGrammar::Rota);
    let found = ours(&[
        "v1",
        "rota.host=A.test",
        "rota.host=*.b.test",
        "rota.path=/x",
        "rota.path=/y/",
        "rota.weight=3",
    ]);
    assert_eq!(
        routes(&found),
        ["a.test/x", "a.test/y", "*.b.test/x", "*.b.test/y"]
    );
    assert_eq!((found.weight, whys(&found)), (Some(3), String::new()));
    assert_eq!(
        routes(&ours(&["rota.host=a.test", "rota.enable=true"])),
        ["a.test/"]
    );
    assert!(
        ours(&["rota.host=a.test", "rota.enable=true", "rota.enable=false"])
            .routes
            .is_empty()
    );
    assert!(
        ours(&["urlprefix-a.test/"]).routes.is_empty(),
        "not without its switch"
    );
}

#[test]
fn a_wrong_tag_hurts_itself_alone_and_says_why() {
    let found = tagged(
        &[
            "rota.host=a.test",
            "rota.host=a:80",
            "rota.path=x",
            "rota.weight=-1",
            "rota.enable=yes",
            "rota.hots=b",
            "rota.x",
        ],
        TagGrammar::Rota,
    );
    assert_eq!(routes(&found), ["a.test/"]);
    let whys = whys(&found);
    assert_eq!(found.refused.len(), 6, "{whys}");
    assert!(
        whys.contains("rota.hots=b: no such word; known or nearest: host"),
        "{whys}"
    );
    for lonely in ["rota.path=/x", "rota.enable=true"] {
        let found = tagged(&[lonely], TagGrammar::Rota);
        assert!(whys_of(&found).contains("rota.host"), "{lonely}");
    }
}

fn whys_of(tagged: &Tagged) -> String {
    whys(tagged)
}

#[test]
fn hosts_are_held_to_those_that_tags_may_name() {
    let allowed = ["*.apps.test", "shop.test"];
    for (host, is_allowed) in [
        ("a.apps.test", true),
        ("a.b.apps.test", true),
        ("*.apps.test", true),
        ("*.b.apps.test", true),
        ("shop.test", true),
        ("apps.test", false),
        ("xapps.test", false),
        ("*.test", false),
        ("*.shop.test", false),
        ("*", false),
    ] {
        let tags = vec![format!("rota.host={host}"), format!("urlprefix-{host}/x")];
        let found = read(&tags, &terms(TagGrammar::Fabio, &allowed));
        let expected = if is_allowed { 2 } else { 0 };
        assert_eq!(found.routes.len(), expected, "{host}");
        assert_eq!(found.refused.len(), 2 - expected, "{host}");
    }
    let tags = vec!["urlprefix-/x".to_owned()];
    assert!(
        read(&tags, &terms(TagGrammar::Fabio, &allowed))
            .routes
            .is_empty(),
        "no host is every host"
    );
}

#[test]
fn fabios_tags_are_taken_as_far_as_they_mean_the_same_here() {
    for (tag, route, why) in [
        ("urlprefix-/css", "*/css", ""),
        (" urlprefix-I.com/static ", "i.com/static", ""),
        ("urlprefix-mysite.com/", "mysite.com/", ""),
        ("urlprefix-*.a.com/x proto=https", "*.a.com/x", ""),
        (
            "urlprefix-a.com/ weight=0.05",
            "a.com/",
            "in force without it",
        ),
        (
            "urlprefix-a.com/ register=me proto=http",
            "a.com/",
            "in force without it",
        ),
        (
            "urlprefix-/foo/bar strip=/foo",
            "",
            "strip is not supported",
        ),
        ("urlprefix-/x prepend=/y", "", "no such route"),
        ("urlprefix-/x host=dst", "", "host is not supported"),
        (
            "urlprefix-/x redirect=301,https://a$path",
            "",
            "redirect is not supported",
        ),
        (
            "urlprefix-/x allow=ip:10.0.0.0/8",
            "",
            "more would be let in",
        ),
        ("urlprefix-/x auth=mine", "", "more would be let in"),
        (
            "urlprefix-/x proto=https tlsskipverify=true",
            "",
            "always verified",
        ),
        ("urlprefix-:3306 proto=tcp", "", "TCP"),
        ("urlprefix-/x proto=tcp", "", "not spoken"),
        ("urlprefix-a.com", "", "no path"),
        ("urlprefix-${DC}.a.com/", "", "variable"),
        ("urlprefix-a*.com/", "", "`*`"),
        ("urlprefix-a.com:80/", "", "no port"),
        ("urlprefix-/x frob=1", "", "nobody knows"),
    ] {
        let found = tagged(&[tag], TagGrammar::Fabio);
        assert_eq!(routes(&found).join(" "), route, "{tag}");
        assert_eq!(found.refused.is_empty(), why.is_empty(), "{tag}");
        assert!(whys(&found).contains(why), "{}", whys(&found));
    }
    let https = tagged(&["urlprefix-/x proto=https"], TagGrammar::Fabio);
    assert_eq!(https.protocol, Some(ServiceProtocol::Https));
}

#[test]
fn routes_beyond_the_limit_are_left_out_and_told() {
    let hosts = (0..10).map(|at| format!("rota.host=h{at}.test"));
    let paths = (0..10).map(|at| format!("rota.path=/{at}"));
    let tags: Vec<String> = hosts.chain(paths).collect();
    let found = read(&tags, &terms(TagGrammar::Rota, &["*"]));
    assert_eq!((found.routes.len(), found.refused.len()), (MAX_ROUTES, 1));
}

proptest! {
    #[test]
    fn whatever_stands_there_is_read_and_told_in_short(tags in prop::collection::vec("(rota\\.|urlprefix-|)(host=|path=|weight=|enable=|)\\PC{0,200}", 0..8)) {
        let found = read(&tags, &terms(TagGrammar::Fabio, &["*"]));
        prop_assert!(found.refused.iter().all(|refused| refused.tag.chars().count() <= 201));
    }
}
