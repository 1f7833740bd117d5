package authd

import (
	"encoding/json"
	"net/http"
	"testing"
)

// find gets and decodes what anybody may know.
func (r *running) find() (status int, found findResponse) {
	r.t.Helper()
	res, err := r.https(nil).Get(r.url() + "/v1/webapi/find")
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	if res.StatusCode == http.StatusOK {
		if err := json.NewDecoder(res.Body).Decode(&found); err != nil {
			r.t.Fatal(err)
		}
	}
	return res.StatusCode, found
}

// Anybody may ask, as often as they like: it must not cost what all roles and
// locks together do.
func TestFindReadsThePreferenceAndNoOtherPolicy(t *testing.T) {
	r := start(t)
	db := r.database()
	if _, err := db.Exec(`UPDATE policy_objects SET document = 'not read' WHERE kind = 'role'`); err != nil {
		t.Fatal(err)
	}
	if status, found := r.find(); status != http.StatusOK || found.Auth.DeviceTrust.Mode != "optional" {
		t.Errorf("got %d and mode %q", status, found.Auth.DeviceTrust.Mode)
	}
	if _, err := db.Exec(`DELETE FROM policy_objects WHERE kind = 'cluster_auth_preference'`); err != nil {
		t.Fatal(err)
	}
	if status, _ := r.find(); status != http.StatusServiceUnavailable {
		t.Errorf("without a preference: %d", status)
	}
}
