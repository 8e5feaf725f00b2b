//! The cryptography behind TLS.

use rustls::crypto::{CryptoProvider, ring};

/// Makes ring the provider of this process, unless it has one. Every HTTPS client needs it first.
pub fn install_tls() {
    if CryptoProvider::get_default().is_none() {
        // Fails only when another thread was faster, and then there is one.
        let _ = ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_there_however_often_it_is_asked_for() {
        install_tls();
        install_tls();
        assert!(CryptoProvider::get_default().is_some());
    }
}
