package node

import gossh "golang.org/x/crypto/ssh"

// Algorithms are named rather than left to x/crypto's defaults, which still
// hold SHA-1 (diffie-hellman-group14-sha1, hmac-sha1, ssh-rsa).

// transport algorithms, the best first; the client's order decides (RFC 4253
// section 7.1). AES-GCM and ChaCha20-Poly1305 carry their own MAC; the ETM
// MACs are for CTR.
func transport() gossh.Config {
	return gossh.Config{
		KeyExchanges: []string{gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519},
		Ciphers: []string{
			gossh.CipherAES128GCM, gossh.CipherAES256GCM, gossh.CipherChaCha20Poly1305,
			gossh.CipherAES128CTR, gossh.CipherAES256CTR,
		},
		MACs: []string{gossh.HMACSHA256ETM, gossh.HMACSHA512ETM},
	}
}

// userKeys are the signatures that people's keys may make.
func userKeys() []string {
	return []string{
		gossh.KeyAlgoED25519, gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
		gossh.KeyAlgoRSASHA256, gossh.KeyAlgoRSASHA512,
	}
}
