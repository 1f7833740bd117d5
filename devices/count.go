package devices

import (
	"fmt"

	"devicetrust/resource"
	"devicetrust/store"
)

// Count tells how many devices are registered, and how many of them enrolled.
func (i *Inventory) Count(tx *store.Tx) (registered, enrolled int64, err error) {
	err = tx.QueryRow(`SELECT count(*), count(CASE WHEN enroll_status = $1 THEN 1 END) FROM devices`, resource.Enrolled).
		Scan(&registered, &enrolled)
	if err != nil {
		return 0, 0, fmt.Errorf("devices: %w", err)
	}
	return registered, enrolled, nil
}
