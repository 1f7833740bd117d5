package authd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices"
	"devicetrust/resource"
)

func device(tag string) []byte {
	return fmt.Appendf(nil, `{"kind":"device","version":"v1","spec":{"os_type":"linux","asset_tag":"%s"}}`, tag)
}

// createDevices sends each document in a message of its own.
func createDevices(ctx context.Context, c dtv1connect.DeviceServiceClient, replace bool, docs ...[]byte) (*connect.Response[dtv1.CreateDevicesResponse], error) {
	stream := c.CreateDevices(ctx)
	for _, doc := range docs {
		if stream.Send(&dtv1.CreateDevicesRequest{Devices: [][]byte{doc}, Replace: replace}) != nil {
			break // the answer says why
		}
	}
	return stream.CloseAndReceive()
}

func TestManyDevicesAreCreatedListedAndReplaced(t *testing.T) {
	r := start(t)
	c := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin")
	done, err := createDevices(t.Context(), c, false, device("B2"), device("A1"), device("C3"))
	if err != nil || done.Msg.GetCreated() != 3 {
		t.Fatalf("%v, %v", done, err)
	}
	var tags []string
	for token, pages := "", 0; pages == 0 || token != ""; pages++ {
		page, err := c.ListDevices(t.Context(), connect.NewRequest(&dtv1.ListDevicesRequest{PageSize: 2, PageToken: token}))
		if err != nil {
			t.Fatal(err)
		}
		token = page.Msg.GetNextPageToken()
		for _, doc := range page.Msg.GetDevices() {
			d, err := resource.ParseJSON(doc)
			if err != nil {
				t.Fatal(err)
			}
			tags = append(tags, d.(*resource.Device).Spec.AssetTag)
		}
	}
	if got := strings.Join(tags, " "); got != "A1 B2 C3" {
		t.Errorf("listed %s", got)
	}
	_, err = createDevices(t.Context(), c, false, device("D4"), device("B2"))
	wantCode(t, err, connect.CodeAlreadyExists)
	if !strings.Contains(err.Error(), "document 2: device B2/linux is registered already") {
		t.Error(err)
	}
	done, err = createDevices(t.Context(), c, true, device("D4"), device("B2"))
	if err != nil || done.Msg.GetCreated() != 1 || done.Msg.GetUpdated() != 1 {
		t.Errorf("%v, %v", done, err)
	}
	_, err = createDevices(t.Context(), c, false, device("E5"), []byte(`{"kind":"role","version":"v7","metadata":{"name":"a"}}`))
	wantCode(t, err, connect.CodeInvalidArgument)
	if !strings.Contains(err.Error(), "document 2: a device is wanted") {
		t.Error(err)
	}
}

func TestWhoMayCreateDevicesMayNotReplaceThem(t *testing.T) {
	r := start(t)
	r.narrow("device", "create")
	r.addUser("mallory", "narrow")
	c := dtv1connect.NewDeviceServiceClient(r.https(r.login("mallory")), r.url())
	if _, err := createDevices(t.Context(), c, false, device("A1")); err != nil {
		t.Fatal(err)
	}
	_, err := createDevices(t.Context(), c, true, device("A1"))
	wantCode(t, err, connect.CodePermissionDenied)
	r.refusalRecorded(dtv1connect.DeviceServiceCreateDevicesProcedure)
	wantCode(t, fails(c.ListDevices(t.Context(), connect.NewRequest(&dtv1.ListDevicesRequest{}))), connect.CodePermissionDenied)
}

func TestDevicesThatAreSentAreBounded(t *testing.T) {
	in := bulk{bytes: maxBulkBytes}
	if err := in.add(&dtv1.CreateDevicesRequest{Devices: [][]byte{device("A1")}}, true); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("got %v, want that there are too many bytes", err)
	}
	in = bulk{devices: make([]resource.Device, devices.MaxBulk)}
	if err := in.add(&dtv1.CreateDevicesRequest{Devices: [][]byte{device("A1")}}, true); err == nil || !strings.Contains(err.Error(), "more than 50000 devices") {
		t.Errorf("got %v, want that there are too many", err)
	}
}

func TestManyDevicesAreRegisteredByOneCallAtATime(t *testing.T) {
	s := &Server{}
	s.bulk.Lock()
	_, err := deviceService{s: s}.CreateDevices(t.Context(), nil)
	var r *api.Refusal
	if !errors.As(err, &r) || r.Code != connect.CodeResourceExhausted {
		t.Errorf("got %v, want that it waits for the other", err)
	}
}

func TestAllOfAKindIsNoMoreThanAPage(t *testing.T) {
	r := start(t)
	c := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin")
	var docs [][]byte
	for i := range devices.MaxPage {
		docs = append(docs, device(fmt.Sprintf("PF%06d", i)))
	}
	if _, err := createDevices(t.Context(), c, false, docs...); err != nil {
		t.Fatal(err)
	}
	list := func() error {
		return fails(r.resources().ListResources(t.Context(), connect.NewRequest(&dtv1.ListResourcesRequest{Kind: "device"})))
	}
	if err := list(); err != nil {
		t.Error(err)
	}
	if _, err := createDevices(t.Context(), c, false, device("ONEMORE")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, list(), connect.CodeFailedPrecondition)
}
