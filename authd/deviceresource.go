package authd

import (
	"context"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/devices"
	"devicetrust/resource"
	"devicetrust/store"
)

// listDevices gives them to who asks for all of a kind, where that is a page.
func (s *Server) listDevices(ctx context.Context) ([]resource.Resource, error) {
	all, next, err := s.devices.ListPage(ctx, devices.Filter{}, devices.Page{Size: devices.MaxPage})
	if err != nil {
		return nil, err
	}
	if next != "" {
		return nil, api.Refuse(connect.CodeFailedPrecondition, "there are more devices than one answer holds (%d)", len(all)).
			WithHint("dtctl devices ls lists them page by page")
	}
	out := make([]resource.Resource, len(all))
	for i := range all {
		out[i] = &all[i]
	}
	return out, nil
}

func (s *Server) getDevice(ctx context.Context, name string) (resource.Resource, error) {
	var d resource.Device
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		ref, err := s.devices.Resolve(tx, name)
		if err == nil {
			d, err = s.devices.Get(tx, ref)
		}
		return err
	})
	return &d, err
}

func (s *Server) createDevice(ctx context.Context, r resource.Resource) error {
	d, err := s.devices.Create(ctx, callerOf(ctx).actor, *r.(*resource.Device))
	if err == nil {
		*r.(*resource.Device) = d
	}
	return err
}

// updateDevice ends what the device gave where the change unenrolls it.
func (s *Server) updateDevice(ctx context.Context, r resource.Resource, revision string) error {
	d, err := s.devices.Update(ctx, callerOf(ctx).actor, *r.(*resource.Device), revision, s.endDevice("the device was unenrolled"))
	if err == nil {
		*r.(*resource.Device) = d
	}
	return err
}

func (s *Server) deleteDevice(ctx context.Context, name string) error {
	var ref devices.Ref
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		ref, err = s.devices.Resolve(tx, name)
		return err
	})
	if err != nil {
		return err
	}
	return s.removeDevice(ctx, ref)
}
