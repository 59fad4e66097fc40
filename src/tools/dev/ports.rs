//! The ports that `ezout dev` needs: read from the addresses, and free before anything is started.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
};

use anyhow::{Context as _, anyhow, bail, ensure};

use super::Addresses;

/// Reads the ports of nats-server, its monitoring and mongod, and makes sure that these, those of the service and that
/// of Resgate, where there is one, are free.
///
/// # Errors
/// When an address is not one that a server on this machine could have, and when ports are taken: all of them are
/// named, each with the program that has it where the system tells, and with the variable that chooses another.
pub(super) fn check(addresses: &Addresses, resgate: Option<SocketAddr>) -> anyhow::Result<(u16, u16, u16)> {
    let nats = port_in("EZOUT_NATS_URL", &addresses.nats_url, 4222)?;
    let monitor = port_in("EZOUT_NATS_MONITOR_URL", &addresses.nats_monitor_url, 8222)?;
    let mongod = port_in("EZOUT_MONGODB_URI", &addresses.mongodb_uri, 27017)?;
    let local = |port: u16| format!("127.0.0.1:{port}");
    let mut wanted = vec![
        (
            local(nats),
            nats,
            "nats-server",
            "EZOUT_NATS_URL",
            "nats://127.0.0.1:4223",
        ),
        (
            local(monitor),
            monitor,
            "nats-server's monitoring",
            "EZOUT_NATS_MONITOR_URL",
            "http://127.0.0.1:8223",
        ),
        (
            local(mongod),
            mongod,
            "mongod",
            "EZOUT_MONGODB_URI",
            "mongodb://127.0.0.1:27018/?replicaSet=rs0",
        ),
        (
            addresses.http.to_string(),
            addresses.http.port(),
            "the HTTP API",
            "EZOUT_HTTP_ADDR",
            "127.0.0.1:8100",
        ),
        (
            addresses.admin.to_string(),
            addresses.admin.port(),
            "health and metrics",
            "EZOUT_ADMIN_ADDR",
            "127.0.0.1:8101",
        ),
    ];
    wanted.extend(resgate.map(|addr| {
        (
            addr.to_string(),
            addr.port(),
            "Resgate",
            "EZOUT_RESGATE_ADDR",
            "127.0.0.1:8180",
        )
    }));
    let mut taken = Vec::new();
    for (address, port, purpose, variable, example) in wanted {
        if let Err(error) = TcpListener::bind(&address) {
            let by = holder(port).map_or_else(|| error.to_string(), |holder| format!("{holder} has it"));
            taken.push(format!(
                "{address}, for {purpose}: {by}; stop that, or choose another: {variable}={example}"
            ));
        }
    }
    if !taken.is_empty() {
        bail!("ports are not free:\n  {}", taken.join("\n  "));
    }
    Ok((nats, monitor, mongod))
}

/// The port in a URL with one host, which must be this machine, since the server is to be started here. No part of the URL
/// is in an error: where it is malformed, a password may stand anywhere.
fn port_in(variable: &str, url: &str, default: u16) -> anyhow::Result<u16> {
    let (_, rest) = url
        .split_once("://")
        .with_context(|| format!("{variable} is no URL: it has no ://"))?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match hosts.rsplit_once(':') {
        Some((host, port)) => (
            host,
            port.parse()
                .map_err(|_| anyhow!("{variable} has no port number behind its host"))?,
        ),
        None => (hosts, default),
    };
    ensure!(
        matches!(host, "127.0.0.1" | "localhost"),
        "{variable} names another host, and `ezout dev` starts its own servers on 127.0.0.1; `ezout serve` uses others"
    );
    Ok(port)
}

/// The program that listens on a port, as far as the system lets us see: `nats-server (process 4711)`.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table
                .lines()
                .filter_map(|line| listener(line, port))
                .collect::<Vec<_>>()
        })
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
    });
    for process in processes {
        // Those of other users cannot be read.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = files.flatten().any(|file| {
            fs::metadata(file.path()).is_ok_and(|metadata| inodes.contains(&metadata.ino()))
                && fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), process.file_name().display()));
        }
    }
    None
}

/// The inode of the socket in a line of `/proc/net/tcp`, if it listens on this port.
fn listener(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
    listens.then(|| fields.get(9)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use super::{check, port_in};
    use crate::tools::{dev::Addresses, servers::free_port};

    #[test]
    fn the_port_is_read_from_a_url_of_this_machine() {
        let check = |url: &str, expect: Option<u16>| assert_eq!(port_in("X", url, 7).ok(), expect, "{url}");
        check("nats://127.0.0.1:4222", Some(4222));
        check("nats://name:secret@localhost:4222", Some(4222));
        check("http://localhost/", Some(7));
        check("mongodb://127.0.0.1:27017/?replicaSet=rs0", Some(27017));
        check("mongodb://127.0.0.1:27017,127.0.0.1:27018/?replicaSet=rs0", None);
        check("nats://example.com:4222", None);
        check("127.0.0.1:4222", None);
        check("nats://127.0.0.1:port", None);
    }

    #[test]
    fn a_malformed_url_tells_no_password() {
        for url in [
            "name:geheim@127.0.0.1:4222",
            "nats://name:geheim",
            "nats://name:x@ge/heim@127.0.0.1:4222",
            "nats://name:geheim@127.0.0.1:geheim",
            "mongodb://name:geheim@db.example:27017,other:geheim/",
        ] {
            let error = format!("{:#}", port_in("EZOUT_NATS_URL", url, 7).unwrap_err());
            assert!(error.contains("EZOUT_NATS_URL"), "{error}");
            for part in ["geheim", "heim", "name:", "@ge"] {
                assert!(!error.contains(part), "{url}: {error}");
            }
        }
    }

    #[test]
    fn every_port_that_is_taken_is_named_with_its_variable() {
        let addresses = Addresses {
            nats_url: format!("nats://127.0.0.1:{}", free_port().unwrap()),
            nats_monitor_url: format!("http://127.0.0.1:{}", free_port().unwrap()),
            mongodb_uri: format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port().unwrap()),
            http: (Ipv4Addr::LOCALHOST, free_port().unwrap()).into(),
            admin: (Ipv4Addr::LOCALHOST, free_port().unwrap()).into(),
        };
        let resgate = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        check(&addresses, Some(resgate)).unwrap();

        let _nats = TcpListener::bind(addresses.nats_url.trim_start_matches("nats://")).unwrap();
        let _http = TcpListener::bind(addresses.http).unwrap();
        let _resgate = TcpListener::bind(resgate).unwrap();
        let message = check(&addresses, None).unwrap_err().to_string();
        assert!(!message.contains("EZOUT_RESGATE_ADDR="), "{message}");
        let message = check(&addresses, Some(resgate)).unwrap_err().to_string();
        assert!(
            message.contains("for Resgate") && message.contains("EZOUT_RESGATE_ADDR="),
            "{message}"
        );
        assert!(
            message.contains("EZOUT_NATS_URL=") && message.contains("EZOUT_HTTP_ADDR="),
            "{message}"
        );
        assert!(!message.contains("EZOUT_ADMIN_ADDR="), "{message}");
        if cfg!(target_os = "linux") {
            let own = format!("(process {}) has it", std::process::id());
            assert!(message.contains(&own), "{message}");
        }
    }
}
