package mdm

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// readSecret gives the one line in a file that no other account may read. It
// is read each time that it is needed, so that a new one needs no restart.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", plainPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	// A group of the service's own may read it (0640), nobody else.
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return "", fmt.Errorf("%s has mode %04o, others than its owner can use the secret in it: chmod 600 %s", path, mode, path)
	}
	data, err := readAll(f, maxSecret)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s: want one line with the secret", path)
	}
	return secret, nil
}

// plainPath drops the name of the system call.
func plainPath(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}

// readCAs gives the certificates in a PEM file; nil, which is the system's,
// where path is empty.
func readCAs(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPath(err)
	}
	defer f.Close()
	data, err := readAll(f, maxCAFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: no certificate in it, want PEM", path)
	}
	return pool, nil
}

var errTooLong = errors.New("it is too long")

// readAll refuses what is longer than limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLong, limit)
	}
	return data, nil
}
