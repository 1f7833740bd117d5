// Package sshd makes a stock OpenSSH server decide as our own node does: the
// helper that it asks about each certificate, and what lies on its machine.
package sshd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/durable"
	"devicetrust/feed"
	"devicetrust/identity"
)

// Dir is the folder with all that sshd and its helper read. It is public, and
// belongs to root; keys lie elsewhere.
type Dir string

// DirOf is that of the server with the configuration: beside it.
func DirOf(sshdConfig string) Dir { return Dir(filepath.Join(filepath.Dir(sshdConfig), "devicetrust")) }

// DropIn is the file with our part of the configuration. sshd takes the first
// value that it finds of most options (sshd_config(5)), so ours comes first.
func DropIn(sshdConfig string) string {
	return filepath.Join(filepath.Dir(sshdConfig), "sshd_config.d", "00-devicetrust.conf")
}

// UserCA has the keys of the SSH user authorities, for TrustedUserCAKeys, and
// for whoever reads the signed state.
func (d Dir) UserCA() string { return d.file("user_ca.pub") }

// KRL is for RevokedKeys. sshd lets nobody in where it is missing.
func (d Dir) KRL() string { return d.file("krl") }

// State is the signed state, which the helper decides by.
func (d Dir) State() string { return d.file("state") }

// NodeFile says which node of which cluster the server is.
func (d Dir) NodeFile() string { return d.file("node.json") }

// HostCertificate is that of sshd's host key of a type: ed25519, ecdsa, rsa.
func (d Dir) HostCertificate(keyType string) string {
	return d.file("ssh_host_" + keyType + "_key-cert.pub")
}

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// StateFile is State with who may read it: root, who writes it, and the group
// that the helper runs with. It names devices and the people who have them.
func (d Dir) StateFile(group int) feed.File {
	return feed.File{Path: d.State(), As: durable.File{Mode: 0o640, Group: group, GroupSet: true}}
}

// public is how all the other files are made.
func public() durable.File { return durable.File{Mode: 0o644} }

// Node is which node a server is. Only check tells that one is whole.
type Node struct {
	Cluster string
	ID      string
	// Name is what people call it.
	Name string
	// Installed is when it became one; whole seconds.
	Installed time.Time
}

// nodeVersion is the only form of the file that there is.
const nodeVersion = 1

type nodeJSON struct {
	Version   int    `json:"version"`
	Cluster   string `json:"cluster"`
	NodeID    string `json:"node_id"`
	Name      string `json:"name"`
	Installed string `json:"installed"`
}

func (n Node) check() error {
	if n.Installed.Unix() <= 0 {
		return errors.New("it is not known when it was installed")
	}
	// A node's name is a host name, in whatever case.
	return errors.Join(identity.CheckCluster(n.Cluster), identity.CheckNodeID(n.ID), identity.CheckHostName(strings.ToLower(n.Name)))
}

func (n Node) marshal() ([]byte, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(nodeJSON{nodeVersion, n.Cluster, n.ID, n.Name, n.Installed.UTC().Format(time.RFC3339)})
	return append(text, '\n'), err
}

// parseNode takes nothing but what marshal writes.
func parseNode(text []byte) (Node, error) {
	var raw nodeJSON
	if err := json.Unmarshal(text, &raw); err != nil {
		return Node{}, err
	}
	if raw.Version != nodeVersion {
		return Node{}, fmt.Errorf("it is of version %d, and version %d is known", raw.Version, nodeVersion)
	}
	n := Node{Cluster: raw.Cluster, ID: raw.NodeID, Name: raw.Name}
	var err error
	if n.Installed, err = time.Parse(time.RFC3339, raw.Installed); err != nil {
		return Node{}, fmt.Errorf("installed: %.64q is no time", raw.Installed)
	}
	again, err := n.marshal()
	if err == nil && !bytes.Equal(again, text) {
		err = errors.New("it is not in its one form")
	}
	if err != nil {
		return Node{}, err
	}
	return n, nil
}

// WriteNode keeps n.
func (d Dir) WriteNode(n Node) error {
	text, err := n.marshal()
	if err != nil {
		return fmt.Errorf("%s: %w", d.NodeFile(), err)
	}
	return public().Write(d.NodeFile(), text)
}

// ReadNode gives what WriteNode kept; fs.ErrNotExist where there is nothing.
func (d Dir) ReadNode() (Node, error) {
	text, err := durable.Read(d.NodeFile(), maxNode)
	if err != nil {
		return Node{}, err
	}
	n, err := parseNode(text)
	if err != nil {
		return Node{}, fmt.Errorf("%s: %w", d.NodeFile(), err)
	}
	return n, nil
}

// WriteUserCA keeps the keys of the authorities.
func (d Dir) WriteUserCA(keys []ssh.PublicKey) error {
	var text []byte
	for _, k := range keys {
		text = append(text, ssh.MarshalAuthorizedKey(k)...)
	}
	if _, err := parseUserCA(text); err != nil {
		return fmt.Errorf("%s: %w", d.UserCA(), err)
	}
	return public().Write(d.UserCA(), text)
}

// ReadUserCA gives the keys of the authorities, of which there is at least one.
func (d Dir) ReadUserCA() ([]ssh.PublicKey, error) {
	text, err := durable.Read(d.UserCA(), maxUserCA)
	if err != nil {
		return nil, err
	}
	keys, err := parseUserCA(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.UserCA(), err)
	}
	return keys, nil
}

// parseUserCA reads one key a line, as sshd does (auth2-pubkey.c,
// user_cert_trusted_ca); that is, without options.
func parseUserCA(text []byte) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err == nil && len(options) > 0 {
			err = errors.New("a key with options")
		}
		if err == nil {
			err = identity.CheckSSHKey(key)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if keys = append(keys, key); len(keys) > maxAuthorities {
			return nil, fmt.Errorf("there are more than %d keys", maxAuthorities)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key")
	}
	return keys, nil
}
