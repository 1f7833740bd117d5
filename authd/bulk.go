package authd

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices"
	"devicetrust/resource"
)

// CreateDevices takes all documents before anything is written, since the
// store waits for nobody's connection.
func (h deviceService) CreateDevices(ctx context.Context, stream *connect.ClientStream[dtv1.CreateDevicesRequest]) (*connect.Response[dtv1.CreateDevicesResponse], error) {
	s := h.s
	if !s.bulk.TryLock() {
		return nil, api.Refuse(connect.CodeResourceExhausted, "other devices are being registered at this moment").
			WithHint("Try again in a minute.")
	}
	defer s.bulk.Unlock()
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	var in bulk
	for first := true; stream.Receive(); first = false {
		if err := in.add(stream.Msg(), first); err != nil {
			return nil, err
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if in.replace {
		if err := s.mustAlso(ctx, stream.Spec().Procedure, resource.KindDevice, "update"); err != nil {
			return nil, err
		}
	}
	done, err := s.devices.CreateAll(ctx, callerOf(ctx).actor, in.devices, devices.Bulk{
		Replace: in.replace, Ended: s.endDevice("the device was unenrolled"),
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.CreateDevicesResponse{Created: int64(done.Created), Updated: int64(done.Updated)}), nil
}

// bulk is what a stream of devices has brought.
type bulk struct {
	devices []resource.Device
	bytes   int
	replace bool
}

func (b *bulk) add(m *dtv1.CreateDevicesRequest, first bool) error {
	if first {
		b.replace = m.GetReplace()
	}
	for _, doc := range m.GetDevices() {
		if b.bytes += len(doc); b.bytes > maxBulkBytes {
			return api.Refuse(connect.CodeInvalidArgument, "the devices have more than %d bytes, which is what can be registered at once", maxBulkBytes).
				WithHint("Make several files of it")
		}
		if len(b.devices) == devices.MaxBulk {
			return api.Refuse(connect.CodeInvalidArgument, "there are more than %d devices, which is what can be registered at once", devices.MaxBulk).
				WithHint("Make several files of it")
		}
		r, err := parse(doc, resource.KindDevice)
		if err != nil {
			return api.Refuse(connect.CodeInvalidArgument, "document %d: %v", len(b.devices)+1, err)
		}
		d, ok := r.(*resource.Device)
		if !ok {
			return fmt.Errorf("authd: a device is a %T", r)
		}
		b.devices = append(b.devices, *d)
	}
	return nil
}
