package devices

import (
	"context"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// RegisterCurrent gives user a token for the machine that data describes, and
// registers it where it is not. A machine that somebody else has enrolled, or
// that is frozen, is refused, which is recorded.
func (i *Inventory) RegisterCurrent(ctx context.Context, user string, data *dtv1.DeviceData) (token Token, err error) {
	if err := checkData(data); err != nil {
		return Token{}, err
	}
	source := bySelf
	d := NewDevice{OSType: data.GetOsType(), AssetTag: data.GetAssetTag(), Source: &source}
	var refused resource.Device
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		found, err := find(tx, `asset_tag = $1 AND os_type = $2`, d.AssetTag, d.OSType)
		if err != nil {
			return err
		}
		var device resource.Device
		if len(found) == 1 {
			device = found[0]
		} else if device, err = i.register(tx, user, i.blank(d)); err != nil {
			return err
		}
		if err = enrolledByOther(device, user); err == nil {
			err = notFrozen(device)
		}
		if err != nil {
			refused = device
			return err
		}
		token, err = i.issueToken(tx, user, device, 0)
		return err
	})
	if refused.Metadata.Name != "" {
		return Token{}, i.recordFailure(ctx, err, event.Event{
			Type: event.DeviceTokenCreate, User: user, Message: err.Error(), Device: described(refused),
		})
	}
	return token, err
}
