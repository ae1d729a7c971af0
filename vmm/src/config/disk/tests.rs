//! Disks as people name them, and mistakes.

use super::*;
use std::num::NonZeroU64;

use iolite_devices::block::inject::Rate;

use crate::config::injection::{parse_failure, parse_latency};

#[test]
fn a_path_alone_has_the_defaults() {
    assert_eq!("a/b.img".parse(), Ok(DiskSpec::new("a/b.img")));
    assert_eq!("path=a/b.img".parse(), Ok(DiskSpec::new("a/b.img")));
}

#[test]
fn keys_are_taken_in_any_order() {
    let wanted = DiskSpec {
        source: Source::Image("x".into()),
        read_only: true,
        direct: true,
        cache: Cache::WriteThrough,
        block_size: 4096,
        engine: Some(Engine::Uring),
        queues: 2,
        workers: 7,
        queue_size: 64,
        poll: Duration::from_micros(7),
        mapped: FileBackend::DEFAULT_MAPPED,
        id: Some("left".into()),
        injection: Injection::default(),
    };
    assert_eq!(
        "x,ro,direct,queues=2,engine=uring,workers=7,cache=writethrough,block-size=4096,queue-size=64,poll=7us,id=left"
            .parse(),
        Ok(wanted.clone())
    );
    assert_eq!(
        "direct=on,id=left,readonly=true,engine=uring,queues=2,path=x,block-size=4K,poll=7000ns,queue-size=64,cache=writethrough,workers=7"
            .parse(),
        Ok(wanted)
    );
    assert_eq!("x,ro=false".parse(), Ok(DiskSpec::new("x")));
}

#[test]
fn each_key_is_given_once() {
    let mistake = |text: &str| text.parse::<DiskSpec>().unwrap_err();
    for (text, key) in [
        ("x,workers=2,workers=3", "workers"),
        ("x,id=a,ro,id=a", "id"),
        ("x,latency=1ms,fail=read,fail=read:8,latency=1ms", "latency"),
    ] {
        assert_eq!(mistake(text), ConfigError::RepeatedKey(key.into()));
    }
    for text in ["x,", "x,ro,", "x,,,"] {
        assert_eq!(mistake(text), ConfigError::EmptyKey(text.into()));
    }
}

#[test]
fn a_path_may_have_commas_and_need_not_be_utf_8() {
    let read_only = |path: &[u8]| DiskSpec {
        read_only: true,
        ..DiskSpec::new(OsStr::from_bytes(path))
    };
    for (text, path) in [
        ("a,,b,ro", b"a,b".as_slice()),
        ("a,,,ro", b"a,"),
        ("ro,path=,,a,,,,", b",a,,"),
        ("a,,path=b,ro", b"a,path=b"),
        ("a,,ro,ro", b"a,ro"),
    ] {
        assert_eq!(text.parse(), Ok(read_only(path)), "{text}");
    }
    for path in [b"\xff\xfe/x.img".as_slice(), b"a,b", b"mem:1M", b"path=x,,"] {
        let mut text = path_item("path=", Path::new(OsStr::from_bytes(path)));
        text.push(",ro");
        let parsed = DiskSpec::parse(&text);
        match path {
            b"mem:1M" => assert_eq!(parsed.unwrap().source, Source::Memory(1 << 20)),
            _ => assert_eq!(parsed, Ok(read_only(path)), "{text:?}"),
        }
    }
    let key = DiskSpec::parse(OsStr::from_bytes(b"x,\xff"));
    assert_eq!(key, Err(ConfigError::UnknownKey("\u{fffd}".into())));
}

#[test]
fn slowness_and_failures_add_up() {
    let text = "x,latency=1ms-3ms,fail=read:8,fail=write:1%,fail=flush,seed=7";
    let Injection {
        latency,
        failures,
        seed,
        ..
    } = text.parse::<DiskSpec>().unwrap().injection;
    assert_eq!(latency, parse_latency("1ms-3ms").ok());
    let wanted = ["read:8", "write:1%", "flush"].map(|text| parse_failure(text).unwrap());
    assert_eq!(failures, wanted);
    assert_eq!(seed, 7);
    for random in ["latency=1us-2us", "fail=read:50%"] {
        assert!(format!("x,{random},seed=1").parse::<DiskSpec>().is_ok());
    }
    for fixed in ["ro", "latency=2ms", "fail=read:every:3"] {
        assert_eq!(idle(&format!("x,seed=1,{fixed}")), Some("seed"));
    }
}

#[test]
fn as_much_is_mapped_as_somebody_says() {
    let mapped = |text: &str| text.parse::<DiskSpec>().unwrap().mapped;
    assert_eq!(mapped("x"), 1 << 30);
    assert_eq!(mapped("x,mmap=off"), 0);
    assert_eq!(mapped("x,mmap=2M"), 2 << 20);
}

#[test]
fn limits_are_requests_and_bytes() {
    let limits = |text: &str| text.parse::<DiskSpec>().unwrap().injection.limits;
    let rate = |rate, burst| {
        let rate = NonZeroU64::new(rate).unwrap();
        Some(Rate::new(rate, NonZeroU64::new(burst)))
    };
    let both = limits("x,iops=500,bandwidth=10M:64K");
    assert_eq!(both.requests, rate(500, 50));
    assert_eq!(both.bytes, rate(10 << 20, 64 << 10));
    assert!(limits("x").is_none());
}

/// The key of a disk that does nothing, if it is refused for that.
fn idle(text: &str) -> Option<&'static str> {
    match text.parse::<DiskSpec>() {
        Err(ConfigError::IdleKey { key, .. }) => Some(key),
        _ => None,
    }
}

#[test]
fn keys_that_do_nothing_are_refused() {
    for text in ["mem:1M,cache=writeback", "null:1M,cache=unsafe"] {
        assert_eq!(idle(text), Some("cache"), "{text}");
    }
    for text in ["mem:1M,direct", "null:1M,direct=off"] {
        assert_eq!(idle(text), Some("direct"), "{text}");
    }
    for text in ["x,cache=unsafe,fail=flush", "x,fail=flush:1%,cache=unsafe"] {
        assert_eq!(idle(text), Some("fail=flush"), "{text}");
    }
    for text in ["mem:1M,mmap=off", "x,direct,mmap=1G", "x,mmap=2M,direct"] {
        assert_eq!(idle(text), Some("mmap"), "{text}");
    }
    assert_eq!(idle("mem:1M,engine=uring"), Some("engine"));
    assert_eq!(idle("x,workers=4,engine=sync"), Some("workers"));
    for text in ["x,cache=unsafe,fail=read", "x,cache=writeback,fail=flush"] {
        assert!(text.parse::<DiskSpec>().is_ok(), "{text}");
    }
}

#[test]
fn disks_without_an_image() {
    let source = |text: &str| text.parse::<DiskSpec>().map(|disk| disk.source);
    assert_eq!(source("mem:1M"), Ok(Source::Memory(1 << 20)));
    assert_eq!(source("null:2G,ro"), Ok(Source::Null(2 << 30)));
    assert_eq!(source("ro,path=null:4K"), Ok(Source::Null(4096)));
    assert_eq!(source("./mem:1M"), Ok(Source::Image("./mem:1M".into())));
    assert_eq!(source("a:b"), Ok(Source::Image("a:b".into())));
    for text in ["mem:", "mem:12", "mem:-1M", "null:1X"] {
        assert!(matches!(source(text), Err(ConfigError::Size(_))), "{text}");
    }
    assert_eq!(source("null:0M"), Err(ConfigError::EmptyDisk));
}

#[test]
fn mistakes_are_named() {
    let error = |text: &str| text.parse::<DiskSpec>().unwrap_err();
    assert_eq!(
        error("x,color=red"),
        ConfigError::UnknownKey("color".into())
    );
    assert_eq!(error(""), ConfigError::DiskWithoutPath("".into()));
    assert_eq!(error("path="), ConfigError::DiskWithoutPath("path=".into()));
    assert_eq!(
        error("path=x,path=y"),
        ConfigError::DiskWithTwoPaths("path=x,path=y".into())
    );
    for text in [
        "x,engine",
        "x,engine=fast",
        "x,queues",
        "x,queues=0",
        "x,queues=17",
        "x,workers=0",
        "x,workers",
        "x,workers=99",
        "x,poll",
        "x,poll=5",
        "x,poll=11ms",
        "x,mmap",
        "x,mmap=0",
        "x,mmap=1M",
        "x,mmap=on",
        "x,queue-size=2",
        "x,queue-size=100",
        "x,queue-size=2048",
        "x,queue-size=65536",
        "x,ro=maybe",
        "x,direct=maybe",
        "x,cache",
        "x,cache=none",
        "x,block-size=1024",
        "x,block-size",
        "x,iops",
        "x,iops=0",
        "x,iops=1K",
        "x,bandwidth=100",
        "x,bandwidth=1M:",
        "x,seed",
        "x,seed=-1",
        "x,id=",
        "x,id=123456789012345678901",
    ] {
        assert!(
            matches!(error(text), ConfigError::BadValue { .. }),
            "{text}"
        );
    }
    assert!(error("x,color").to_string().contains("queue-size"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "((x,)?(latency=|fail=(read|flush):(every:)?))?.{0,40}") {
        let _ = text.parse::<DiskSpec>();
        let _ = parse_latency(&text);
        let _ = parse_failure(&text);
        let _ = super::super::parse_size(&text);
        let _ = super::super::parse_duration(&text);
    }
}
