package devices

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/ssh"

	"devicetrust/devices/tpm"
	"devicetrust/store/storetest"
)

func TestKeysInTheTPMAreVerified(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	var proved tpm.Authenticated
	v, err := w.loginWith(t, m, login{newKeys: true, onProved: func(p tpm.Authenticated) { proved = p }})
	if err != nil {
		t.Fatal(err)
	}
	public, err := proved.Keys.SSH.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	want, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if k := v.Keys(); k.SSH() == nil || !bytes.Equal(k.SSH().Marshal(), want.Marshal()) || len(k.Attestation()) != 64 {
		t.Errorf("verified %+v", k)
	}
	again, err := w.loginWith(t, m, login{keys: proved.Keys})
	if err != nil {
		t.Fatal(err)
	}
	if k := again.Keys(); !bytes.Equal(k.SSH().Marshal(), want.Marshal()) || k.Attestation() == v.Keys().Attestation() {
		t.Errorf("the keys were certified again as %+v", k)
	}
	if n := m.chip.Loaded(t); n != 0 {
		t.Errorf("%d keys and sessions were left in the TPM", n)
	}
}
