//! The bytes' way through a proxy: a thread for each direction of a connection does what [`Shared::judge`] says.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Fault, Shared, Verdict, Way, close};

pub fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        let mut state = shared.lock();
        state.connections += 1;
        let id = state.connections;
        if state.all == Some(Fault::Cut) {
            continue;
        }
        let Ok(server) = TcpStream::connect(&shared.upstream) else { continue };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        state.open.insert(id, (client.try_clone().unwrap(), server.try_clone().unwrap()));
        drop(state);
        let (up, down) = (Arc::clone(shared), Arc::clone(shared));
        let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || to_server(&up, id, client_too, server_too));
        std::thread::spawn(move || to_client(&down, id, client, server));
    }
}

fn to_server(shared: &Shared, id: u64, mut client: TcpStream, mut server: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        shared.take_time(read);
        let passed = match shared.judge(id, Way::ToServer, &buffer[..read]) {
            Verdict::Cut(bytes) => {
                let _ = server.write_all(&buffer[..bytes.min(read)]);
                break;
            }
            Verdict::Pass | Verdict::Swallow => server.write_all(&buffer[..read]).is_ok(),
            Verdict::Wait => deliver_late(shared, id, buffer[..read].to_vec(), &mut client, &mut server),
        };
        if !passed {
            break;
        }
    }
    close(&client, &server);
    shared.lock().open.remove(&id);
}

/// Keeps what comes until it may pass. `false`: the client has gone meanwhile; it was delivered all the same.
fn deliver_late(shared: &Shared, id: u64, mut held: Vec<u8>, client: &mut TcpStream, server: &mut TcpStream) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let mut gone = false;
    client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    while shared.is_held(id) && !shared.ended.load(Ordering::Relaxed) {
        if gone {
            let wait = shared.changed.wait_timeout(shared.lock(), Duration::from_millis(50));
            drop(wait);
            continue;
        }
        match client.read(&mut buffer) {
            Ok(read @ 1..) => held.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => gone = true,
        }
    }
    if shared.ended.load(Ordering::Relaxed) {
        return false;
    }
    let answered = shared.server_bytes(id);
    if server.write_all(&held).is_err() {
        return false;
    }
    if gone {
        // The connection stays until the server has dealt with it: many a server stops when its client goes.
        let until = Instant::now() + Duration::from_secs(5);
        while shared.server_bytes(id) == answered && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut state = shared.lock();
        state.late += usize::from(state.bytes.get(&id).is_some_and(|bytes| bytes[1] > answered));
        return false;
    }
    client.set_read_timeout(None).is_ok()
}

fn to_client(shared: &Shared, id: u64, mut client: TcpStream, mut server: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        shared.take_time(read);
        match shared.judge(id, Way::ToClient, &buffer[..read]) {
            Verdict::Pass => {}
            Verdict::Cut(bytes) => {
                let _ = client.write_all(&buffer[..bytes.min(read)]);
                break;
            }
            Verdict::Swallow => break,
            Verdict::Wait => {
                while shared.is_held(id) && !shared.ended.load(Ordering::Relaxed) {
                    drop(shared.changed.wait_timeout(shared.lock(), Duration::from_millis(50)));
                }
            }
        }
        // A client that is gone does not end the connection while what it sent is held back.
        if client.write_all(&buffer[..read]).is_err() && !shared.is_held(id) {
            break;
        }
    }
    if !shared.is_held(id) {
        close(&client, &server);
    }
}
