//! What comes in by the link of a pod, in a real kernel.

mod namespace;

use std::net::IpAddr;

use manx_kernel::guard::Admission;
use manx_kernel::names::Mac;
use manx_kernel::netlink::guard::{Audit, Gate, Gates, admit, admitted};
use manx_kernel::netlink::socket::Socket;
use namespace::{ip, nft};

fn admission(link: &str, addresses: &[&str]) -> Admission {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Admission { link: link.to_owned(), mac: Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 7]), addresses }
}

#[test]
fn an_admission_is_put_read_back_changed_and_goes_with_its_link() {
    namespace::run(|| {
        ip("link add cali1 type veth peer name cali2");
        let mut socket = Socket::netfilter().unwrap();
        let all = [
            admission("cali1", &["10.244.0.7"]),
            admission("cali1", &["fd00::7"]),
            admission("cali1", &["10.244.0.7", "fd00::7"]),
            admission("cali1", &[]),
        ];
        for wanted in &all {
            assert_eq!(admitted(&mut socket, wanted), Ok(Some(false)));
            assert_eq!(admit(&mut socket, wanted), Ok(Gate::Shut));
            assert_eq!(admitted(&mut socket, wanted), Ok(Some(true)));
            let other = Admission { link: "cali2".into(), ..wanted.clone() };
            assert_eq!(admitted(&mut socket, &other), Ok(Some(false)));
        }
        admit(&mut socket, &all[2]).unwrap();
        ip("link del cali1");
        let mut gates = Gates::open().unwrap().expect("this kernel can filter at ingress");
        assert_eq!(gates.audit(), Ok(Audit { swept: 1, ..Audit::default() }));
        assert_eq!(nft("list tables").as_deref().unwrap_or_default(), "");
    });
}
