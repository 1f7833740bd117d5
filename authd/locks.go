package authd

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/resource"
	"devicetrust/store"
)

// aimLock puts a device's ID in the place of the asset tag that people know it
// by: certificates are held against the ID, so a tag would keep nobody out. A
// tag that is nobody's is refused; an ID may be that of a device that comes.
func (s *Server) aimLock(ctx context.Context, r resource.Resource) error {
	l, ok := r.(*resource.Lock)
	if !ok || l.Spec.Target.Device == "" {
		return nil
	}
	target := &l.Spec.Target
	return s.db.Read(ctx, func(tx *store.Tx) error {
		ref, err := s.devices.Resolve(tx, target.Device)
		if err != nil {
			return err
		}
		d, err := s.devices.Get(tx, ref)
		if id, noID := uuid.Parse(target.Device); noID == nil && id.String() == target.Device && isNotFound(err) {
			return nil
		}
		if no, refused := errors.AsType[*api.Refusal](err); refused {
			return api.Refuse(connect.CodeInvalidArgument, "spec.target.device: %s", no.Message).WithHint("%s", no.Hint)
		}
		target.Device = d.Metadata.Name
		return err
	})
}
