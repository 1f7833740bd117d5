package devices

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// silent is a device that opened a ceremony and says nothing until it leaves.
type silent[Req, Res any] struct{ left chan struct{} }

func (s silent[Req, Res]) Receive() (*Req, error) { <-s.left; return nil, errLeft }
func (silent[Req, Res]) Send(*Res) error          { return errors.New("nothing to send was wanted") }

// ceremonies begin each kind of ceremony with a device that says nothing. They
// reach no store: what is asked for comes before.
func ceremonies(left chan struct{}) map[string]func(*testing.T, *Inventory) error {
	return map[string]func(*testing.T, *Inventory) error{
		"enrollment": func(t *testing.T, i *Inventory) error {
			return i.Enroll(t.Context(), alice, testAddr, Trust{}, silent[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]{left})
		},
		"authentication": func(t *testing.T, i *Inventory) error {
			b := identity.LoginBinding{User: alice, SSHPublicKey: []byte("ssh key"), TLSPublicKey: []byte("tls key")}
			_, err := i.Authenticate(t.Context(), b, Demands{}, testAddr, silent[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]{left})
			return err
		},
	}
}

func TestADeviceThatSaysNothingIsNotWaitedForForEver(t *testing.T) {
	for name := range ceremonies(nil) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := make(chan struct{})
				defer close(left)
				i := New(nil, nil, testCluster, time.Now)
				begun := time.Now()
				err := ceremonies(left)[name](t, i)
				wantCode(t, err, connect.CodeDeadlineExceeded, "did not answer within 1m0s")
				if waited := time.Since(begun); waited != ceremonyTimeout {
					t.Errorf("it ended after %v, want %v", waited, ceremonyTimeout)
				}
			})
		})
	}
}

func TestOnePersonsCeremoniesAreBounded(t *testing.T) {
	for name := range ceremonies(nil) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := make(chan struct{})
				i, begin := New(nil, nil, testCluster, time.Now), ceremonies(left)[name]
				ended := make(chan error, maxPerUser)
				for range maxPerUser {
					go func() { ended <- begin(t, i) }()
				}
				synctest.Wait()
				wantCode(t, begin(t, i), connect.CodeResourceExhausted, "too many")
				close(left)
				for range maxPerUser {
					if err := <-ended; !errors.Is(err, errLeft) {
						t.Errorf("one that was let in: %v", err)
					}
				}
				if err := begin(t, i); !errors.Is(err, errLeft) {
					t.Errorf("after the others: %v", err)
				}
			})
		})
	}
}

// said is a device that says one thing after the other, and hears nothing.
type said[Req, Res any] []func() *Req

func (s *said[Req, Res]) Receive() (*Req, error) {
	next := (*s)[0]
	*s = (*s)[1:]
	return next(), nil
}

func (*said[Req, Res]) Send(*Res) error { return nil }

func TestACredentialIDThatIsTooLongIsNotLookedFor(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	s := &said[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]{func() *dtv1.AuthenticateDeviceRequest {
		return &dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{Init: &dtv1.AuthenticateInit{
			CredentialId: string(make([]byte, maxCredentialID+1)), DeviceData: &dtv1.DeviceData{OsType: "linux", AssetTag: testTag},
		}}}
	}}
	b := identity.LoginBinding{User: alice, SSHPublicKey: []byte("ssh key"), TLSPublicKey: []byte("tls key")}
	_, err := w.Authenticate(t.Context(), b, Demands{}, testAddr, s)
	wantRefusal(t, err, "which key")
}

// No message is known that makes a parser panic, so the panics are of what
// stands beside them.
func TestAPanicWhileAProposalIsCheckedEndsTheCeremonyOnly(t *testing.T) {
	i := New(nil, nil, testCluster, func() time.Time { panic("what no parser expects") })
	e := &enrolling{Inventory: i, user: alice, device: resource.Device{Spec: resource.DeviceSpec{OSType: "linux", AssetTag: testTag}}}
	err := e.run(t.Context(), &dtv1.EnrollInit{
		DeviceData: &dtv1.DeviceData{OsType: "linux", AssetTag: testTag}, Tpm: &dtv1.TPMEnroll{},
	}, nil)
	wantRefusal(t, err, "malformed")
}

func TestAPanicWhileAQuoteIsCheckedEndsTheCeremonyOnly(t *testing.T) {
	w, key := newWorld(t, storetest.Open(t)), newSoftKey(t, nil)
	checked, err := checkKey(key.public)
	if err != nil {
		t.Fatal(err)
	}
	d := add(t, w, "linux", testTag)
	d.Spec.EnrollStatus, d.Spec.Owner = resource.Enrolled, alice
	d.Spec.Credential = &resource.Credential{ID: checked.credentialID, TPMAKPublic: checked.public}
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error { return update(tx, &d) }); err != nil {
		t.Fatal(err)
	}
	a := &authenticating{Inventory: w.Inventory, binding: identity.LoginBinding{User: alice}}
	_, err = a.run(t.Context(), &dtv1.AuthenticateInit{
		CredentialId: checked.credentialID, DeviceData: &dtv1.DeviceData{OsType: "linux", AssetTag: testTag},
	}, &said[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]{func() *dtv1.AuthenticateDeviceRequest {
		a.device.Spec.Credential = nil // what the check of the answer needs
		return &dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_TpmChallengeResponse{
			TpmChallengeResponse: &dtv1.TPMAuthenticateChallengeResponse{},
		}}
	}})
	wantRefusal(t, err, "malformed")
	if n := len(w.events(t, event.DeviceAuthenticate)); n != 0 {
		t.Errorf("%d records of a device that authenticated", n)
	}
}
