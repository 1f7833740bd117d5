package authd

import (
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/devices/tpm/tpmtest"
)

// failed are the messages of the failed acts of a type, the newest first.
func (r *running) failed(typ event.Type) (messages []string) {
	r.t.Helper()
	res, err := r.adminService().ListAudit(r.t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(typ), Failed: true}))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, record := range slices.Backward(res.Msg.GetEvents()) {
		var e event.Event
		if err := json.Unmarshal(record, &e); err != nil {
			r.t.Fatal(err)
		}
		messages = append(messages, e.Message)
	}
	return messages
}

func TestWhatAnAdministratorIsRefusedIsRecordedOnce(t *testing.T) {
	r := start(t)
	admin := (&laptop{r: r}).admin()
	add := func(os, tag string) error {
		_, err := admin.AddDevice(t.Context(), connect.NewRequest(&dtv1.AddDeviceRequest{OsType: os, AssetTag: tag}))
		return err
	}
	put := func(kind, document string) error {
		_, err := r.resources().UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: kind, Resource: []byte(document)}))
		return err
	}
	token := func(tag string, ttl *durationpb.Duration) error {
		_, err := admin.CreateEnrollToken(t.Context(), connect.NewRequest(&dtv1.CreateEnrollTokenRequest{Device: &dtv1.DeviceRef{AssetTag: tag}, Ttl: ttl}))
		return err
	}
	if err := add("linux", "TAG12345"); err != nil {
		t.Fatal(err)
	}
	maker, err := tpmtest.NewCA("maker", nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := maker.Issue(maker.Certificate.PublicKey, tpmtest.Certificate{})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		act  func() error
		typ  event.Type
		want string
	}{
		{"a device twice", func() error { return add("linux", "TAG12345") }, event.DeviceCreate, "registered already"},
		{"an unknown system", func() error { return add("beos", "TAG12346") }, event.DeviceCreate, "unknown operating system"},
		{"an empty tag", func() error { return add("linux", "") }, event.DeviceCreate, "empty"},
		{"a junk tag", func() error { return add("linux", "None") }, event.DeviceCreate, "placeholder"},
		{"a document with a mistake", func() error { return put("device", "{kind: device, spec: {os_tpye: linux}}") }, event.DeviceUpdate, "line 1"},
		{"a certificate of no CA", func() error {
			quoted := strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})), "\n", "\\n")
			return put("cluster_auth_preference", string(preferring(`{ekcert_allowed_cas: ["`+quoted+`"]}`)))
		}, event.PreferenceUpdate, "not one of a certificate authority"},
		{"a token for what is not there", func() error { return token("TAG99999", nil) }, event.DeviceTokenCreate, "not found"},
		{"a token for ever", func() error { return token("TAG12345", durationpb.New(1e18)) }, event.DeviceTokenCreate, "cannot live"},
		{"what is not enrolled", func() error {
			_, err := admin.AcceptDevice(t.Context(), connect.NewRequest(&dtv1.AcceptDeviceRequest{Device: &dtv1.DeviceRef{AssetTag: "TAG12345"}}))
			return err
		}, event.DeviceAccept, "not enrolled"},
	} {
		before := len(r.failed(row.typ))
		if err := row.act(); err == nil {
			t.Errorf("%s was not refused", row.name)
		}
		if now := r.failed(row.typ); len(now) != before+1 || !strings.Contains(now[0], row.want) {
			t.Errorf("%s: on record is %q, want one more with %q", row.name, now, row.want)
		}
	}

	// What recorded itself is not recorded again, and looking is no act.
	r.addUser("alice", "editor")
	r.addUser("bob", "editor")
	l := r.newLaptop("TAG77777")
	l.enroll(r.login("alice"))
	before := len(r.failed(event.DeviceTokenCreate))
	theirs := dtv1connect.NewDeviceServiceClient(r.https(r.login("bob")), r.url())
	if _, err := theirs.RegisterCurrentDevice(t.Context(), connect.NewRequest(&dtv1.RegisterCurrentDeviceRequest{Device: l.data})); err == nil {
		t.Error("alice's device was registered by bob")
	}
	if n := len(r.failed(event.DeviceTokenCreate)); n != before+1 {
		t.Errorf("%d records of one refusal", n-before)
	}
	all := len(r.failed(""))
	if _, err := r.resources().GetResource(t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "device", Name: "TAG99999"})); err == nil {
		t.Error("a device that is not there was found")
	}
	if n := len(r.failed("")); n != all {
		t.Errorf("looking left %d records", n-all)
	}
}
