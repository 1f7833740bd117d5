package authd

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
)

// interrupted is a client's end of an enrollment: once the challenge has come,
// something happens before it is answered.
type interrupted struct {
	tpm.EnrollStream
	happens func()
}

func (i *interrupted) Receive() (*dtv1.EnrollDeviceResponse, error) {
	m, err := i.EnrollStream.Receive()
	if m.GetTpmChallenge() != nil {
		i.happens()
	}
	return m, err
}

// A ceremony lasts up to a minute, in which its person may have been removed:
// somebody who is given the name later must not find a device enrolled.
func TestAnEnrollmentEndsWithItsLogin(t *testing.T) {
	r := start(t)
	machines := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin")
	for name, test := range map[string]struct {
		ends func() error
		want connect.Code
	}{
		"the user was removed": {func() error {
			return fails(r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "user", Name: "alice"})))
		}, connect.CodeUnauthenticated},
		"the user was locked": {func() error {
			doc := `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {user: alice}}}`
			return fails(r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: []byte(doc)})))
		}, connect.CodePermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			r.addUser("alice", "access")
			tag := fmt.Sprintf("TAG%d", time.Now().UnixNano())
			token, err := machines.AddDevice(t.Context(), connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "linux", AssetTag: tag, Enroll: true}))
			if err != nil {
				t.Fatal(err)
			}
			chip, err := tpm.Open(t.Context(), tpmtest.Start(t).Address)
			if err != nil {
				t.Fatal(err)
			}
			defer chip.Close()
			stream := dtv1connect.NewDeviceServiceClient(r.https(r.login("alice")), r.url()).EnrollDevice(t.Context())
			_, err = chip.Enroll(t.Context(), tpm.EnrollArgs{
				Token: token.Msg.GetToken().GetToken(), Cluster: "test", User: "alice",
				Data:      &dtv1.DeviceData{OsType: "linux", AssetTag: tag},
				StatePath: filepath.Join(t.TempDir(), "device", "state.json"),
			}, &interrupted{EnrollStream: stream, happens: func() {
				if err := test.ends(); err != nil {
					t.Error(err)
				}
			}})
			wantRefused(t, err, test.want)
			db := r.database()
			if owned := column(t, db, `SELECT asset_tag FROM devices WHERE owner <> ''`); len(owned) > 0 {
				t.Errorf("%v are enrolled", owned)
			}
			// For the next one.
			for kind, name := range map[string]string{"user": "alice", "lock": "l1"} {
				_, _ = r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: kind, Name: name}))
			}
		})
	}
}
