package client

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// keep stores a login: keys, certificates and the cluster's authorities in
// one step, then the profile that speaks of them. A login that was there
// before is replaced; whoever reads meanwhile finds the old keys or the new,
// never some of each.
func (p *Profile) keep(c Credentials, hosts []ssh.PublicKey) error {
	if err := checkFileUser(p.User); err != nil {
		return err
	}
	files, err := c.files(p.User)
	if err != nil {
		return err
	}
	files[authoritiesFile] = p.Trust.pem()
	files[knownHostsFile] = knownHosts(hosts)
	if err := p.home.replaceFolder(files, "keys", fileName(p.Proxy)); err != nil {
		return err
	}
	if err := p.save(); err != nil {
		return err
	}
	return p.makeCurrent()
}

// knownHosts has every host certified by one of the authorities, and no other
// (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). The file is for this cluster only,
// so its pattern may be that wide.
func knownHosts(authorities []ssh.PublicKey) []byte {
	var b bytes.Buffer
	for _, a := range authorities {
		fmt.Fprintf(&b, "@cert-authority * %s", ssh.MarshalAuthorizedKey(a))
	}
	return b.Bytes()
}

// HostAuthorities are the cluster's SSH host authorities, as of the last
// login.
func (p *Profile) HostAuthorities() ([]ssh.PublicKey, error) {
	data, err := p.home.read("keys", fileName(p.Proxy), knownHostsFile)
	if err != nil {
		return nil, unreadable(p.keyPath(knownHostsFile), err)
	}
	var all []ssh.PublicKey
	for len(data) > 0 {
		marker, _, key, _, rest, err := ssh.ParseKnownHosts(data)
		if err != nil {
			break
		}
		if marker == "cert-authority" {
			all = append(all, key)
		}
		data = rest
	}
	if len(all) == 0 {
		return nil, unreadable(p.keyPath(knownHostsFile), errors.New("it holds no authority"))
	}
	return all, nil
}

// replaceFolder writes files into a new folder and puts it in the place of
// the one named.
func (h *Home) replaceFolder(files map[string][]byte, elem ...string) error {
	dir := h.path(elem...)
	if err := h.folder(elem[:len(elem)-1]...); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), ".new-*") // 0700
	if err != nil {
		return unwritable(dir, err)
	}
	defer os.RemoveAll(fresh) //nolint:errcheck // after an exchange the old folder; the next logout removes what stays
	for name, data := range files {
		if err := writeFile(filepath.Join(fresh, name), data); err != nil {
			return unwritable(filepath.Join(dir, name), err)
		}
	}
	if err := exchange(fresh, dir); err != nil {
		return unwritable(dir, err)
	}
	if err := syncFolder(filepath.Dir(dir)); err != nil {
		return unwritable(dir, err)
	}
	return nil
}

// moveInto puts the folder fresh in the place of dir in two steps, for
// systems that cannot do it in one. A crash in between leaves the login
// without keys, which says so and asks to log in again.
func moveInto(fresh, dir string) error {
	old := fresh + ".old"
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}
