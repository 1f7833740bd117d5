package authd

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/resource"
)

// lockOn makes, or with again replaces, the lock l1 on the device so called, and
// gives what it then holds.
func (r *running) lockOn(device string, again bool) (string, error) {
	r.t.Helper()
	doc := []byte(`{"kind":"lock","version":"v2","metadata":{"name":"l1"},"spec":{"target":{"device":"` + device + `"}}}`)
	err := fails(r.resources().CreateResource(r.t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: doc})))
	if again {
		err = fails(r.resources().UpdateResource(r.t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "lock", Resource: doc})))
	}
	if err != nil {
		return "", err
	}
	res, err := r.resources().GetResource(r.t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "lock", Name: "l1"}))
	if err != nil {
		r.t.Fatal(err)
	}
	lock, err := resource.ParseJSON(res.Msg.GetResource())
	if err != nil {
		r.t.Fatal(err)
	}
	return lock.(*resource.Lock).Spec.Target.Device, nil
}

// Certificates are held against the IDs in locks, and people know tags.
func TestALockOnAnAssetTagHoldsTheDevice(t *testing.T) {
	r := start(t)
	devices := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin")
	ids := map[string]string{}
	for _, d := range []struct{ os, tag string }{{"linux", "TAG-1"}, {"linux", "TAG-2"}, {"macos", "TAG-2"}} {
		res, err := devices.AddDevice(t.Context(), connect.NewRequest(&dtv1.AddDeviceRequest{OsType: d.os, AssetTag: d.tag}))
		if err != nil {
			t.Fatal(err)
		}
		added, err := resource.ParseJSON(res.Msg.GetDevice())
		if err != nil {
			t.Fatal(err)
		}
		ids[d.tag] = added.Head().Metadata.Name
	}
	for _, again := range []bool{false, true} {
		if got, err := r.lockOn("TAG-1", again); err != nil || got != ids["TAG-1"] {
			t.Errorf("again %t: the lock holds %q (%v), want %q", again, got, err, ids["TAG-1"])
		}
	}
	// An ID is known to whoever writes it down, before or after its device is here.
	for _, id := range []string{ids["TAG-1"], "9cdfc0ad-64b7-4d9c-8e2f-0123456789ab"} {
		if got, err := r.lockOn(id, true); err != nil || got != id {
			t.Errorf("the lock holds %q (%v), want %q", got, err, id)
		}
	}
	for tag, want := range map[string]string{
		"NOBODYS": `spec.target.device: device "NOBODYS" not found`,
		// Not as certificates have them.
		"{9cdfc0ad-64b7-4d9c-8e2f-0123456789ab}": `spec.target.device: device "{9cdfc0ad`,
		"TAG-2":                                  `spec.target.device: asset tag "TAG-2" is that of 2 devices`,
	} {
		for _, again := range []bool{false, true} {
			if got, err := r.lockOn(tag, again); err == nil || connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), want) {
				t.Errorf("a lock on %q holds %q (%v), want %s", tag, got, err, want)
			}
		}
	}
}

// People learn why they have to log in again.
func TestTheControlPlaneSaysWhyACertificateIsRevoked(t *testing.T) {
	r := start(t)
	for want, end := range map[string]func() error{
		"the certificate has been revoked: the user was removed": func() error {
			return fails(r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "user", Name: "alice"})))
		},
		"the certificate has been revoked: the user was reset": func() error {
			return fails(r.adminService().ResetUser(t.Context(), connect.NewRequest(&dtv1.ResetUserRequest{Name: "alice"})))
		},
	} {
		_, _ = r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "user", Name: "alice"}))
		r.addUser("alice", "access")
		c := dtv1connect.NewAdminServiceClient(r.https(r.login("alice")), r.url())
		if err := fails(c.ListNodes(t.Context(), connect.NewRequest(&dtv1.ListNodesRequest{}))); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		err := fails(c.ListNodes(t.Context(), connect.NewRequest(&dtv1.ListNodesRequest{})))
		if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
