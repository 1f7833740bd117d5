package devices

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	legacy "github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpm2"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// Keys were under the storage key once, and TPMs tell such keys of other
// counters than they have.
func TestADeviceWithAKeyOfAnEarlierVersionCanEnrollAgain(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		key := newSoftKey(t, nil)
		parsed, err := checkKey(key.public)
		if err != nil {
			t.Fatal(err)
		}
		id := parsed.credentialID
		w.set(t, w.device(t, testTag), func(s *resource.DeviceSpec) {
			s.Credential.ID, s.Credential.TPMAKPublic, s.Baseline, s.Evidence = id, key.public, nil, nil
		})

		var challenge []byte
		_, err = w.loginWith(t, m, login{
			onInit:      func(init *dtv1.AuthenticateInit) { init.CredentialId = id },
			onChallenge: func(c *dtv1.AuthenticateChallenge) { challenge = c.GetChallenge() },
			onAnswer: func(p *dtv1.TPMPlatform) {
				nonce := identity.LoginNonce(identity.LoginBinding{
					Cluster: testCluster, User: alice, SSHPublicKey: []byte("ssh key"), TLSPublicKey: []byte("tls key"),
					Challenge: challenge, CredentialID: id,
				})
				shown := key.platform(t, softQuote{nonce: nonce[:], clock: tpm2.TPMSClockInfo{Clock: 5, ResetCount: 461034373, RestartCount: 3991581531}})
				p.Quotes, p.Pcrs, p.EventLog = shown.Quotes, shown.Pcrs, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		d := w.device(t, testTag)
		if b := d.Spec.Baseline; b == nil || len(b.PCRs) != pcrCount || baselineCounters(b) != (counters{}) {
			t.Errorf("the baseline is %+v", b)
		}
		if e := d.Spec.Evidence; e == nil || e.Level != string(policy.EvidenceQuote) || e.TPMFirmware != "" {
			t.Errorf("the evidence is %+v", e)
		}

		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.enrollWith(t, m, enrollment{token: token.Token}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
		if b := w.device(t, testTag).Spec.Baseline; b.ResetCount == 0 || b.Firmware == "" {
			t.Errorf("the counters are still not known: %+v", b)
		}
		m.chip.Clear(t)
		_, err = w.loginWith(t, m, login{})
		wantRefusal(t, err, "is frozen")
	})
}

// Whoever chooses another algorithm for the key's name gets around nothing.
func TestTheCountersOfAPrimaryKeyAreTakenWhateverItsNameIsMadeWith(t *testing.T) {
	for _, alg := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512} {
		key := newSoftKey(t, func(area *tpm2.TPMTPublic) { area.NameAlg = alg })
		parsed, err := checkKey(key.public)
		if err != nil {
			t.Fatal(err)
		}
		hash, err := alg.Hash()
		if err != nil {
			t.Fatal(err)
		}
		signed := &legacy.AttestationData{ClockInfo: legacy.ClockInfo{ResetCount: 4}}
		for _, test := range []struct {
			parent uint32
			want   int64
		}{{0x4000000b, 4}, {0x40000001, 0}, {0x4000000c, 0}, {0x40000007, 0}} {
			qualified := hash.New()
			qualified.Write(binary.BigEndian.AppendUint32(nil, test.parent))
			qualified.Write(parsed.name)
			signed.QualifiedSigner.Digest = &legacy.HashValue{Alg: legacy.Algorithm(alg), Value: qualified.Sum(nil)}
			if got := countersOf(signed, key.public).reset; got != test.want {
				t.Errorf("%v under %#x: reset count %d, want %d", alg, test.parent, got, test.want)
			}
		}
		signed.QualifiedSigner.Digest = nil
		if got := countersOf(signed, key.public).reset; got != 0 {
			t.Errorf("%v: reset count %d of a handle", alg, got)
		}
	}
}

func TestProfilesOfAnEarlierVersionAreRead(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		id := add(t, w, "linux", testTag).Metadata.Name
		for _, test := range []struct {
			profile string
			want    resource.DeviceProfile
		}{
			{`{"model":"X1","os_version":"12"}`, resource.DeviceProfile{OSVersion: "12"}},
			{`{"os_usernames":"alice","update_time":"yesterday","os_version":"12"}`, resource.DeviceProfile{OSVersion: "12", OSUsernames: []string{"alice"}}},
			{`{"Update_Time":"","OS_Version":"12"}`, resource.DeviceProfile{OSVersion: "12"}},
		} {
			err := w.db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`UPDATE devices SET document = $1`, `{"kind":"device","version":"v1","metadata":{"name":"`+id+
					`"},"spec":{"os_type":"linux","asset_tag":"`+testTag+`","enroll_status":"not_enrolled","profile":`+test.profile+`}}`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			all := w.all(t)
			if diff := cmp.Diff(&test.want, all[0].Spec.Profile); diff != "" {
				t.Errorf("%s: %s", test.profile, diff)
			}
			if all[0].Spec.AssetTag != testTag {
				t.Errorf("%s: the rest is %+v", test.profile, all[0])
			}
			if _, err := w.Update(t.Context(), admin, all[0], "", nil); err != nil {
				t.Errorf("%s cannot be edited: %v", test.profile, err)
			}
		}
	})
}
