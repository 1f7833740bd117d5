package agent

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"strings"

	"golang.org/x/crypto/ssh"
)

// userAuth is what an SSH client signs to authenticate a user: RFC 4252 section
// 7, and section 1 of OpenSSH's PROTOCOL for publickey-hostbound-v00.
type userAuth struct {
	sessionID []byte
	user      string
	key       ssh.PublicKey // a certificate where it is one that the user shows
	host      ssh.PublicKey // nil where the request is not bound to a host
}

const msgUserAuthRequest = 50

// parseUserAuth reads data that is such a request and nothing else.
func parseUserAuth(data []byte) (userAuth, bool) {
	r := reader{rest: data}
	req := userAuth{sessionID: r.string()}
	kind := r.byte()
	req.user = string(r.string())
	service, method := string(r.string()), string(r.string())
	signed := r.bool()
	algorithm := string(r.string())
	req.key = r.key()
	switch method {
	case "publickey":
	case "publickey-hostbound-v00@openssh.com":
		req.host = r.key()
	default:
		return userAuth{}, false
	}
	if !r.done() || kind != msgUserAuthRequest || !signed || service != "ssh-connection" || req.user == "" ||
		len(req.sessionID) < minSessionID || len(req.sessionID) > maxSessionID || keyType(algorithm) != req.key.Type() {
		return userAuth{}, false
	}
	return req, true
}

// keyType is the type of key that signs by an algorithm: of RSA there are more
// algorithms than types.
func keyType(algorithm string) string {
	switch algorithm {
	case ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512:
		return ssh.KeyAlgoRSA
	case ssh.CertAlgoRSASHA256v01, ssh.CertAlgoRSASHA512v01:
		return ssh.CertAlgoRSAv01
	}
	return algorithm
}

// isSSHSIG tells whether data is what ssh-keygen -Y sign has signed
// (PROTOCOL.sshsig section 3): a hash, for a named purpose. It cannot be read as
// anything that a protocol before it signs.
func isSSHSIG(data []byte) bool {
	rest, ok := bytes.CutPrefix(data, []byte("SSHSIG"))
	if !ok {
		return false
	}
	r := reader{rest: rest}
	namespace, reserved, algorithm, hash := r.string(), r.string(), string(r.string()), r.string()
	if !r.done() || len(namespace) == 0 || len(reserved) != 0 {
		return false
	}
	switch algorithm {
	case "sha256":
		return len(hash) == sha256.Size
	case "sha512":
		return len(hash) == sha512.Size
	}
	return false
}

// matches tells whether s fits an SSH pattern of * and ? (match_pattern of
// OpenSSH). It takes at most len(s) times len(pattern) steps.
func matches(s, pattern string) bool {
	star, from := -1, 0
	i, j := 0, 0
	for i < len(s) {
		switch {
		case j < len(pattern) && pattern[j] == '*':
			star, from = j, i
			j++
		case j < len(pattern) && (pattern[j] == '?' || pattern[j] == s[i]):
			i, j = i+1, j+1
		case star >= 0:
			from++
			i, j = from, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[j:], "*") == ""
}
