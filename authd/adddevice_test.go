package authd

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
)

// refusalRecorded wants the one refusal that is on record to be of procedure.
func (r *running) refusalRecorded(procedure string) {
	r.t.Helper()
	res, err := r.adminService().ListAudit(r.t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(event.AccessDenied)}))
	if err != nil || len(res.Msg.GetEvents()) != 1 || !strings.Contains(string(res.Msg.GetEvents()[0]), procedure) {
		r.t.Errorf("recorded is %q, %v, want a refusal of %s", res.Msg.GetEvents(), err, procedure)
	}
}

func TestWhoMayAddDevicesMayNotEnrollThem(t *testing.T) {
	r := start(t)
	r.narrow("device", "create")
	r.addUser("mallory", "narrow")
	c := dtv1connect.NewDeviceServiceClient(r.https(r.login("mallory")), r.url())
	add := func(tag string, enroll bool) error {
		return fails(c.AddDevice(t.Context(), connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "linux", AssetTag: tag, Enroll: enroll})))
	}
	if err := add("A1", false); err != nil {
		t.Fatal(err)
	}
	wantCode(t, add("B2", true), connect.CodePermissionDenied)
	r.refusalRecorded(dtv1connect.DeviceServiceAddDeviceProcedure)
	if again := r.failed(event.DeviceCreate); len(again) > 0 {
		t.Errorf("it is on record once more: %q", again)
	}
	if added := column(t, r.database(), `SELECT asset_tag FROM devices`); len(added) != 1 {
		t.Errorf("the inventory has %q", added)
	}
	r.narrow("device", "create", "enroll")
	if err := add("B2", true); err != nil {
		t.Error(err)
	}
}
