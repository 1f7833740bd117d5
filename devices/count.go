package devices

import (
	"fmt"

	"devicetrust/store"
)

// Count tells how many devices are registered, and how many of them enrolled.
func (i *Inventory) Count(tx *store.Tx) (registered, enrolled int64, err error) {
	// Each of the two from an index: the table has the documents in it.
	err = tx.QueryRow(`SELECT (SELECT count(*) FROM devices), (SELECT count(*) FROM devices WHERE enroll_status = 'enrolled')`).
		Scan(&registered, &enrolled)
	if err != nil {
		return 0, 0, fmt.Errorf("devices: %w", err)
	}
	return registered, enrolled, nil
}
