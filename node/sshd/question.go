package sshd

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// Tokens are the arguments that sshd is to give its AuthorizedPrincipalsCommand
// (sshd_config(5), TOKENS), after the folder.
const Tokens = "%u %t %k %T %K %F %f %i %s"

// unverifiedQuestion is what sshd asks: may whoever holds this certificate log
// in? Besides the login all of it is of the certificate, which somebody shows
// who has not proved yet to hold its key.
type unverifiedQuestion struct {
	login         string // %u
	keyType       string // %t
	key           string // %k, the whole certificate, base64
	caType        string // %T
	caKey         string // %K, base64
	caFingerprint string // %F
	fingerprint   string // %f, of the key in the certificate
	keyID         string // %i
	serial        string // %s
}

var errArguments = errors.New("want --dir=DIR " + Tokens)

// parseArguments takes --dir=DIR and the Tokens apart. Nothing in an error is of
// the arguments.
func parseArguments(args []string) (Dir, unverifiedQuestion, error) {
	if len(args) != 1+len(strings.Fields(Tokens)) {
		return "", unverifiedQuestion{}, errArguments
	}
	dir, ok := strings.CutPrefix(args[0], "--dir=")
	if !ok || !strings.HasPrefix(dir, "/") {
		return "", unverifiedQuestion{}, errArguments
	}
	return Dir(dir), unverifiedQuestion{args[1], args[2], args[3], args[4], args[5], args[6], args[7], args[8], args[9]}, nil
}

// certificate gives the certificate that is asked about, where it can be read
// and all else that sshd says of it agrees: if it does not, sshd and we do not
// mean the same certificate. It is not verified.
func (q *unverifiedQuestion) certificate() (*ssh.Certificate, error) {
	if err := identity.CheckLogin(q.login); err != nil {
		return nil, errors.New("the login is none")
	}
	if len(q.key) > maxCertificate {
		return nil, fmt.Errorf("the certificate has more than %d bytes", maxCertificate)
	}
	// Line breaks are what encoding/base64 passes over even where it is strict.
	wire, err := base64.StdEncoding.Strict().DecodeString(q.key)
	if err != nil || strings.ContainsAny(q.key, "\r\n") {
		return nil, errors.New("the certificate is not in base64")
	}
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, errors.New("the certificate cannot be read")
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("it is a key without a certificate")
	}
	return cert, q.agrees(cert)
}

func (q *unverifiedQuestion) agrees(cert *ssh.Certificate) error {
	for _, part := range []struct{ token, said, is string }{
		{"%t", q.keyType, cert.Type()},
		{"%T", q.caType, cert.SignatureKey.Type()},
		{"%K", q.caKey, base64.StdEncoding.EncodeToString(cert.SignatureKey.Marshal())},
		{"%F", q.caFingerprint, fingerprintLike(q.caFingerprint, cert.SignatureKey)},
		{"%f", q.fingerprint, fingerprintLike(q.fingerprint, cert.Key)},
		{"%i", q.keyID, cert.KeyId},
		{"%s", q.serial, strconv.FormatUint(cert.Serial, 10)},
	} {
		if part.said != part.is {
			return fmt.Errorf("%s is not that of the certificate", part.token)
		}
	}
	return nil
}

// fingerprintLike is key's by the hash of the one that is said (sshd_config(5),
// FingerprintHash).
func fingerprintLike(said string, key ssh.PublicKey) string {
	if strings.HasPrefix(said, "MD5:") {
		return "MD5:" + ssh.FingerprintLegacyMD5(key)
	}
	return ssh.FingerprintSHA256(key)
}
