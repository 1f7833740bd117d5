package authd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices/tpm"
	"devicetrust/resource"
)

// prefer sets device_trust, in YAML's flow style.
func (r *running) prefer(trust string) {
	r.t.Helper()
	if _, err := r.resources().UpdateResource(r.t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{
		Kind: resource.KindPreference, Resource: preferring(trust),
	})); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) autoEnroll() {
	r.t.Helper()
	r.prefer(`{"mode":"optional","auto_enroll":true}`)
}

// autoEnroll enrolls it as a login of k's person does.
func (l *laptop) autoEnroll(k *keys) error {
	l.r.t.Helper()
	ctx := l.r.t.Context()
	client := dtv1connect.NewDeviceServiceClient(l.r.https(k), l.r.url())
	token, err := client.CreateAutoEnrollToken(ctx, connect.NewRequest(&dtv1.CreateAutoEnrollTokenRequest{Device: l.data}))
	if err != nil {
		return err
	}
	chip := l.open()
	defer chip.Close()
	_, err = chip.Enroll(ctx, tpm.EnrollArgs{Token: token.Msg.GetToken(), Cluster: "test", User: k.user(l.r.t), Data: l.data, StatePath: l.state}, client.EnrollDevice(ctx))
	return err
}

func TestALoginEnrollsARegisteredDeviceWhereTheClusterSaysSo(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	l, k := r.newLaptop("TAG12345"), r.login("alice")
	for _, trust := range []string{`{}`, `{"mode":"required"}`, `{"mode":"off","auto_enroll":true}`} {
		r.prefer(trust)
		if err := l.autoEnroll(k); err == nil || !strings.Contains(err.Error(), "auto-enrollment is off") {
			t.Errorf("with %s: %v", trust, err)
		}
	}
	r.autoEnroll()
	if err := l.autoEnroll(k); err != nil {
		t.Fatal(err)
	}
	l.trust(k)
}

func TestALoginDoesNotEnrollADeviceThatIsLocked(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	l, k := r.newLaptop("TAG12345"), r.login("alice")
	r.autoEnroll()
	id := column(t, r.database(), `SELECT id FROM devices`)[0]
	lock := `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {device: ` + id + `}, message: stolen}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: []byte(lock)})); err != nil {
		t.Fatal(err)
	}
	if err := l.autoEnroll(k); err == nil || !strings.Contains(err.Error(), "stolen") {
		t.Errorf("got %v", err)
	}
	// Nor does explain promise it.
	resp, err := l.admin().ExplainAutoEnroll(t.Context(), connect.NewRequest(&dtv1.ExplainAutoEnrollRequest{
		Device: &dtv1.DeviceRef{AssetTag: "TAG12345"}, User: "alice", Reported: l.data,
	}))
	if err != nil || resp.Msg.GetWouldEnroll() {
		t.Errorf("explained as %v, %v", resp, err)
	}
	_, err = l.admin().ExplainAutoEnroll(t.Context(), connect.NewRequest(&dtv1.ExplainAutoEnrollRequest{Device: &dtv1.DeviceRef{AssetTag: "TAG12345"}, User: "nobody"}))
	wantCode(t, err, connect.CodeNotFound)
}

// The role that every person has does not tell what an administrator wrote of
// a device; device read does.
func TestOnlyWhoMayReadDevicesHearsWhatAProfileExpects(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	l, k := r.newLaptop("TAG12345"), r.login("alice")
	r.autoEnroll()
	l.change(func(d *resource.Device) { d.Spec.Profile = &resource.DeviceProfile{Hostname: "secret-name"} })
	err := l.autoEnroll(k)
	if err == nil || !strings.Contains(err.Error(), "hostname is reported as nothing") || strings.Contains(fmt.Sprintf("%+v", err), "secret-name") {
		t.Errorf("a token: %+v", err)
	}
	own := dtv1connect.NewDeviceServiceClient(r.https(k), r.url())
	resp, err := own.DiagnoseDevice(t.Context(), connect.NewRequest(&dtv1.DiagnoseDeviceRequest{Device: l.data}))
	if err != nil || strings.Contains(resp.Msg.String(), "secret-name") {
		t.Errorf("a diagnosis: %v, %v", resp, err)
	}
	explain := &dtv1.ExplainAutoEnrollRequest{Device: &dtv1.DeviceRef{AssetTag: "TAG12345"}, User: "alice", Reported: l.data}
	_, err = own.ExplainAutoEnroll(t.Context(), connect.NewRequest(explain))
	wantCode(t, err, connect.CodePermissionDenied)
	told, err := l.admin().ExplainAutoEnroll(t.Context(), connect.NewRequest(explain))
	if err != nil || told.Msg.GetWouldEnroll() || !strings.Contains(told.Msg.String(), "secret-name") {
		t.Errorf("explained as %v, %v", told, err)
	}
}

// change edits it as an administrator does.
func (l *laptop) change(change func(*resource.Device)) {
	l.r.t.Helper()
	ctx, tag := l.r.t.Context(), l.data.GetAssetTag()
	got, err := l.r.resources().GetResource(ctx, connect.NewRequest(&dtv1.GetResourceRequest{Kind: "device", Name: tag}))
	if err != nil {
		l.r.t.Fatal(err)
	}
	var d resource.Device
	if err := json.Unmarshal(got.Msg.GetResource(), &d); err != nil {
		l.r.t.Fatal(err)
	}
	change(&d)
	doc, err := resource.MarshalJSON(&d)
	if err != nil {
		l.r.t.Fatal(err)
	}
	_, err = l.r.resources().UpdateResource(ctx, connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "device", Resource: doc, Revision: d.Metadata.Revision}))
	if err != nil {
		l.r.t.Fatal(err)
	}
}

func TestAnOwnerWhoIsTakenOutIsCutAndTheOthersAreNot(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	r.addUser("bob", "access")
	l := r.newLaptop("TAG12345")
	a := r.login("alice")
	l.enroll(a)
	l.change(func(d *resource.Device) { d.Spec.Owners = []string{"bob"} })
	a, b := l.trust(a), l.trust(r.login("bob"))
	calls := func(k *keys) error {
		_, err := dtv1connect.NewDeviceServiceClient(r.https(k), r.url()).DiagnoseDevice(t.Context(), connect.NewRequest(&dtv1.DiagnoseDeviceRequest{Device: l.data}))
		return err
	}
	for name, k := range map[string]*keys{"alice": a, "bob": b} {
		if err := calls(k); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.change(func(d *resource.Device) { d.Spec.Owners = nil })
	if err := calls(a); err != nil {
		t.Errorf("alice: %v", err)
	}
	wantCode(t, calls(b), connect.CodeUnauthenticated)
	if _, err := l.authenticate(r.login("bob")); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("bob logs in: %v", err)
	}
}

func TestOwnersAreUsers(t *testing.T) {
	r := start(t)
	l := r.newLaptop("TAG12345")
	got, err := r.resources().GetResource(t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "device", Name: "TAG12345"}))
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Replace(string(got.Msg.GetResource()), `"asset_tag"`, `"owners":["nobody"],"asset_tag"`, 1)
	_, err = r.resources().UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "device", Resource: []byte(doc)}))
	wantCode(t, err, connect.CodeInvalidArgument)
	if err == nil || !strings.Contains(err.Error(), `user "nobody" does not exist`) {
		t.Errorf("got %v", err)
	}
	r.addUser("alice", "access")
	l.change(func(d *resource.Device) { d.Spec.Owners = []string{"alice"} })
	l.enroll(r.login("alice"))
	user, err := r.resources().GetResource(t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "user", Name: "alice"}))
	if err != nil || !strings.Contains(string(user.Msg.GetResource()), "trusted_device_ids") {
		t.Errorf("alice is %s, %v", user.Msg.GetResource(), err)
	}
}
