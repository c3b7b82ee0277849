//! The URLs that people write, and those that they get wrong.

use super::*;
use crate::config::{PostgresConfig, SslMode};

fn postgres(url: &str) -> Result<PostgresConfig, String> {
    PostgresConfig::of_url(url).map(|(config, _)| config)
}

#[test]
fn the_default_needs_no_tls_because_it_stays_on_this_machine() {
    let url = postgres("postgres://app:app@localhost:5432/app").unwrap();
    assert_eq!(
        (url.hosts, url.user.as_str(), url.dbname.as_str()),
        (vec![("localhost".to_owned(), 5432)], "app", "app")
    );
    assert_eq!(url.password.unwrap().take().unwrap().reveal(), "app");
    assert_eq!(url.ssl_mode, SslMode::Disable);
}

#[test]
fn off_this_machine_the_certificate_is_verified_unless_told_otherwise() {
    for (url, mode) in [
        ("postgresql://u@db.example.com/d", SslMode::VerifyFull),
        ("postgres://u@10.0.0.1/d", SslMode::VerifyFull),
        ("postgres://u@db/d?sslmode=require", SslMode::Require),
        ("postgres://u@127.0.0.1/d", SslMode::Disable),
        ("postgres://u@[::1]/d", SslMode::Disable),
        ("postgres://u@localhost/d?sslmode=verify-ca", SslMode::VerifyCa),
        ("postgres://u@localhost/d?sslrootcert=system", SslMode::VerifyFull),
        ("postgres://u@%2Frun%2Fpostgresql/d?sslmode=require", SslMode::Disable),
    ] {
        assert_eq!(postgres(url).unwrap().ssl_mode, mode, "{url}");
    }
}

#[test]
fn every_part_is_percent_decoded() {
    let url = postgres("postgres://us%40er:p%2F%3A%3F%25%23@h:1/d%20b").unwrap();
    assert_eq!(url.user, "us@er");
    assert_eq!(url.password.unwrap().take().unwrap().reveal(), "p/:?%#");
    assert_eq!(url.dbname, "d b");
}

#[test]
fn sockets_and_ipv6_are_hosts_too() {
    for (url, host, port) in [
        ("postgres://u@%2Frun%2Fpostgresql:5433/d", "/run/postgresql", 5433),
        ("postgres:///d?host=/run/postgresql&user=u", "/run/postgresql", 5432),
        ("postgres://u@[2001:db8::1]:6000/d", "2001:db8::1", 6000),
        ("postgres://u@/d", "localhost", 5432),
    ] {
        let parsed = postgres(url).unwrap();
        assert_eq!(parsed.hosts, [(host.to_owned(), port)], "{url}");
    }
}

#[test]
fn the_masked_form_means_the_same() {
    let text =
        "postgres://u:hunter2@[2001:db8::1]:6000/d%20b?sslmode=verify-ca&sslrootcert=/etc/ca.pem&sslcert=c&sslkey=k";
    let url = postgres(text).unwrap();
    assert!(!url.masked().contains("hunter2"));
    let again = postgres(&url.masked()).unwrap();
    assert_eq!(again.masked(), url.masked());
    assert_eq!((again.hosts, again.dbname, again.ssl_client), (url.hosts, url.dbname, url.ssl_client));
}

#[test]
fn an_unknown_parameter_is_named() {
    let why = postgres("postgres://u@h/d?replication=database").unwrap_err();
    assert!(why.contains("`replication`"), "{why}");
}

#[test]
fn several_hosts_stand_in_the_order_in_which_they_are_tried() {
    let url = postgres("postgres://u@a:5433,b/d?target_session_attrs=read-write").unwrap();
    assert_eq!(url.hosts, [("a".to_owned(), 5433), ("b".to_owned(), 5432)]);
    assert!(url.session.read_write);
    assert!(postgres("postgres://u@a/d?target_session_attrs=whatever").is_err());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for url in [
        "host=localhost user=app",
        "postgres://localhost/d",
        "postgres://u@a,b:0/d",
        "postgres://u@::1/d",
        "postgres://u@[::1/d",
        "postgres://u@h:0/d",
        "postgres://u@h/d?sslmode=allow",
        "postgres://u@h/d?sslcert=c",
        "postgres://u@h/d?sslrootcert=system&sslmode=require",
        "postgres://u@h/d?connect_timeout=0",
        "postgres://u@h/d?sslmode",
        "postgres://u@h/d?sslmode=require&sslmode=disable",
    ] {
        assert!(postgres(url).is_err(), "{url}");
    }
}

#[test]
fn a_clickhouse_url_gives_its_login_away_to_nobody() {
    let (url, user, password) = ClickHouseUrl::parse("http://app:hunter2@localhost:8123/").unwrap();
    assert_eq!((url.to_string().as_str(), user.as_str()), ("http://localhost:8123", "app"));
    assert_eq!(password.unwrap().reveal(), "hunter2");
    let (url, user, password) = ClickHouseUrl::parse("https://[::1]:8443/ch/").unwrap();
    assert_eq!((url.to_string().as_str(), user.as_str()), ("https://[::1]:8443/ch", "default"));
    assert!(password.is_none());
}

#[test]
fn a_clickhouse_url_with_several_hosts_is_one_url_for_each() {
    let (url, ..) = ClickHouseUrl::parse("https://app@a:8443,[::1]:8444,c/ch/").unwrap();
    assert_eq!(url.to_string(), "https://a:8443,[::1]:8444,c/ch");
    let each: Vec<String> = url.each().collect();
    assert_eq!(each, ["https://a:8443/ch", "https://[::1]:8444/ch", "https://c/ch"]);
    assert!(ClickHouseUrl::parse("http://a:8123,/").is_err());
}

#[test]
fn a_database_in_the_clickhouse_url_is_refused_with_the_place_where_it_belongs() {
    let why = ClickHouseUrl::parse("http://h:8123/?database=analytics").unwrap_err();
    assert!(why.contains("target"), "{why}");
    assert!(ClickHouseUrl::parse("http://h:8123/?async_insert=1").is_err());
    assert!(ClickHouseUrl::parse("clickhouse://h:9000").is_err());
}

#[test]
fn no_refusal_repeats_a_password() {
    let secret = "hunter2";
    for url in [
        "postgres://app:hunter2",
        "postgres://app:hunter2/db",
        "postgres://app:a/hunter2@host/db",
        "postgres://app:a?hunter2@host/db",
        "postgres://app:a?hunter2=1@host/db",
        "postgres://app:a?hunter2=1",
        "postgres://app:a#hunter2@host:x/db",
        "postgres://app:a@hunter2@host/db",
        "postgres://app:%zzhunter2@host/db",
        "postgres://app:x@hunter2 /db",
        "postgres://app@host/db?password=hunter2&password=hunter2",
        "postgres://app:hunter2@host/db?sslmode=hunter2",
        "app:hunter2@host",
        "http:app:hunter2@host",
        "http://app:hunter2@host:hunter2",
        "http://app:hunter2@host?database=hunter2",
        "http://app:hunter2%00@host",
        "http://app:hunter2@host/a b",
    ] {
        for why in [postgres(url).err(), ClickHouseUrl::parse(url).err()].into_iter().flatten() {
            assert!(!why.contains(secret), "{url}: {why}");
        }
    }
}

#[test]
fn several_hosts_are_tried_in_order_and_libpq_s_other_parameters_are_taken() {
    let text = "postgres://u@a:1,[::1]:2,c/d?target_session_attrs=read-write&channel_binding=require&options=-c%20geqo%3Doff\
                &application_name=nightly&keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=4";
    let url = postgres(text).unwrap();
    let host = |name: &str, port| (name.to_owned(), port);
    assert_eq!(url.hosts, [host("a", 1), host("::1", 2), host("c", 5432)]);
    assert_eq!(url.ssl_mode, SslMode::VerifyFull, "one of them is another machine");
    assert!(url.session.read_write && url.session.channel_binding == Some(true) && !url.session.no_keepalives);
    assert_eq!(url.session.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(postgres(&url.masked()).unwrap().session, url.session);
    let url = postgres("postgres:///d?user=u&host=a,b&port=1,2").unwrap();
    assert_eq!(url.hosts, [host("a", 1), host("b", 2)]);
    let url = postgres("postgres:///d?user=u&host=a,b&port=7").unwrap();
    assert_eq!(url.hosts, [host("a", 7), host("b", 7)]);
    for wrong in ["postgres://u@a,b,c/d?port=1,2", "postgres://u@a/d?target_session_attrs=standby"] {
        postgres(wrong).unwrap_err();
    }
}
