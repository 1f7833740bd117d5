package sshd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/crypto/ssh"

	"devicetrust/durable"
	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/identity/krl"
)

// trust looks at what sshd and its helper believe.
func (a *auditor) trust() {
	keys, err := a.dir.ReadUserCA()
	if err != nil {
		a.add(Finding{
			Code: "user-ca-unreadable", Severity: SeverityOpen, Setting: "user_ca.pub", Value: brief(err.Error()), Want: "the cluster's authority", File: a.dir.UserCA(),
			Problem: "It cannot be told which authorities are believed, or one is that is too weak.", Remedy: "Run `dtnoded sshd install` again.",
		})
	}
	a.krl(a.state(keys))
}

// state holds the authorities that sshd believes against those of the cluster,
// looks how old the state is, and gives the cluster's, or those that sshd
// believes where it is not known which those are.
func (a *auditor) state(keys []ssh.PublicKey) []ssh.PublicKey {
	node, err := a.dir.ReadNode()
	var view *feed.View
	var state *feed.State
	if err == nil {
		state, err = a.dir.StateFile(0).Load(keys, node.Cluster, node.ID)
	}
	if err == nil {
		view, err = state.View(nil)
	}
	if err != nil {
		a.add(Finding{
			Code: "state-unreadable", Severity: SeverityNote, Setting: "state", Value: brief(err.Error()), Want: "the cluster's signed state", File: a.dir.State(),
			Problem: "The helper has nothing to decide by: nobody is let in.", Remedy: "See that `dtnoded sshd sync` runs and reaches the cluster.",
		})
		a.tooMany(keys)
		return keys
	}
	for _, key := range keys {
		if !slices.ContainsFunc(view.UserAuthorities, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) }) {
			a.foreign(ssh.FingerprintSHA256(key), "The cluster does not know this authority, and its certificates are believed.")
		}
	}
	a.age(state)
	return view.UserAuthorities
}

// tooMany: which of several is the cluster's cannot be told.
func (a *auditor) tooMany(keys []ssh.PublicKey) {
	if len(keys) > 1 {
		a.foreign(fmt.Sprintf("%d authorities", len(keys)), "It cannot be told whether all of these authorities are the cluster's.")
	}
}

func (a *auditor) foreign(value, problem string) {
	a.add(Finding{
		Code: "user-ca-foreign-key", Severity: SeverityOpen, Setting: "user_ca.pub", Value: value, Want: "the cluster's authority alone", File: a.dir.UserCA(),
		Problem: problem, Remedy: "Remove the key; `dtctl auth export --type=user` prints the cluster's.",
	})
}

func (a *auditor) age(state *feed.State) {
	age := a.Now().Sub(state.Time())
	if age <= staleState {
		return
	}
	a.add(Finding{
		Code: "state-stale", Severity: SeverityNote, Setting: "state", Value: state.Time().UTC().Format("2006-01-02T15:04:05Z"), Want: "less than " + staleState.String() + " old",
		File:    a.dir.State(),
		Problem: "Locks and revocations of later than that are not known here.", Remedy: "See that `dtnoded sshd sync` runs and reaches the cluster.",
	})
}

// krl looks at the list for RevokedKeys, which has to be about authorities where those
// are known.
func (a *auditor) krl(authorities []ssh.PublicKey) {
	f := Finding{
		Code: "krl-malformed", Severity: SeverityOpen, Setting: "krl", File: a.dir.KRL(), Want: "the cluster's list",
		Problem: "It is not the cluster's list: sshd lets in what is revoked, or nobody.",
		Remedy:  "See that `dtnoded sshd sync` runs, which writes it again.",
	}
	text, err := durable.Read(a.dir.KRL(), feed.MaxMessage)
	if err == nil && len(text) > 0 {
		if _, err = krl.Parse(text); err == nil && len(authorities) > 0 {
			_, err = krl.Check(text, authorities)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Code, f.Severity, f.Value, f.Problem = "krl-missing", SeverityNote, "no file", "sshd lets nobody in without it."
	case err != nil:
		f.Value = brief(err.Error())
	case len(text) == 0:
		f.Code, f.Value, f.Problem = "krl-empty", "0 bytes", "sshd takes a file of 0 bytes for a list on which nothing is."
	default:
		return
	}
	a.add(f)
}

// hostCertificates are by which clients know the server.
func (a *auditor) hostCertificates() {
	if a.baseline == nil {
		return
	}
	files := a.baseline["hostcertificate"]
	if len(files) == 0 {
		a.hostCertificate("", "no certificate", "Clients cannot know the server by the cluster: they believe it at first sight, or not at all.")
	}
	for _, file := range files {
		text, err := durable.Read(file, maxUserCA)
		if err != nil {
			a.hostCertificate(file, err.Error(), "Clients cannot know the server by it.")
			continue
		}
		if problem := a.checkHostCertificate(text); problem != nil {
			a.hostCertificate(file, problem.Error(), "Clients refuse the server by it.")
		}
	}
}

func (a *auditor) hostCertificate(file, value, problem string) {
	a.add(Finding{
		Code: "host-certificate", Severity: SeverityNote, Setting: "hostcertificate", Value: brief(value), Want: "the cluster's certificate of the host key", File: file,
		Problem: problem, Remedy: "See that `dtnoded sshd sync` runs, which renews it; or run `dtnoded sshd install` again.",
	})
}

func (a *auditor) checkHostCertificate(text []byte) error {
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return errors.New("it cannot be read")
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.HostCert {
		return errors.New("it is no certificate of a host")
	}
	if err := identity.CheckSSHKey(cert.Key); err != nil {
		return err
	}
	if now := a.Now().Unix(); now < 0 || uint64(now) >= cert.ValidBefore {
		return errors.New("it has expired")
	} else if uint64(now) < cert.ValidAfter {
		return errors.New("it is not valid yet")
	}
	for _, file := range a.baseline["hostkey"] {
		text, err := durable.Read(file+".pub", maxUserCA)
		own, _, _, _, malformed := ssh.ParseAuthorizedKey(text)
		if err == nil && malformed == nil && bytes.Equal(own.Marshal(), cert.Key.Marshal()) {
			return nil
		}
	}
	return errors.New("it is of none of sshd's host keys")
}
