package node

import gossh "golang.org/x/crypto/ssh"

// Algorithms are named rather than left to x/crypto's defaults, which still
// hold SHA-1 (diffie-hellman-group14-sha1, hmac-sha1, ssh-rsa). What is here
// is the default and all that may be configured. The best comes first; the
// client's order decides (RFC 4253 section 7.1).

// keyExchanges: x/crypto adds the older name of the second,
// curve25519-sha256@libssh.org, and the markers of strict key exchange
// (OpenSSH's PROTOCOL, section 1.10).
func keyExchanges() []string {
	return []string{gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519}
}

// ciphers: AES-GCM and ChaCha20-Poly1305 carry their own MAC. CTR is for
// clients that have neither (paramiko before 3.5).
func ciphers() []string {
	return []string{
		gossh.CipherAES128GCM, gossh.CipherAES256GCM, gossh.CipherChaCha20Poly1305,
		gossh.CipherAES128CTR, gossh.CipherAES256CTR,
	}
}

// macs are for CTR; they are over what was encrypted.
func macs() []string { return []string{gossh.HMACSHA256ETM, gossh.HMACSHA512ETM} }

// userKeys are the signatures that people's keys may make, with a certificate
// or without. Those of security keys (sk-) say that somebody was there: x/crypto
// refuses the others.
func userKeys() []string {
	return []string{
		gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519,
		gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoRSASHA256, gossh.KeyAlgoRSASHA512,
	}
}

// algorithms are those that were chosen. The zero value is all of them.
type algorithms struct {
	keyExchanges, ciphers, macs, userKeys []string
	// rekeyAfter so many bytes; zero is what is good for the cipher.
	rekeyAfter uint64
}

// config is for x/crypto, which takes an empty list for its own default.
func (a algorithms) config() gossh.ServerConfig {
	return gossh.ServerConfig{
		Config: gossh.Config{
			RekeyThreshold: a.rekeyAfter,
			KeyExchanges:   or(a.keyExchanges, keyExchanges()),
			Ciphers:        or(a.ciphers, ciphers()),
			MACs:           or(a.macs, macs()),
		},
		PublicKeyAuthAlgorithms: or(a.userKeys, userKeys()),
	}
}

func or(chosen, preset []string) []string {
	if len(chosen) == 0 {
		return preset
	}
	return chosen
}
