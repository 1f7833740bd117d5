package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// jamf FILE serves what we read of a Jamf Pro. Each line of FILE is a
// computer: ID, serial number, version; it is read at each request, so that a
// script can change it. The client "dt" has the secret "jamf-secret".
func cmdJamf(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 1, "jamf FILE")
	file := ts.MkAbs(args[0])
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/oauth/token", func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("client_id") != "dt" || r.PostFormValue("client_secret") != "jamf-secret" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		answerJSON(w, map[string]any{"access_token": "jamf-token", "token_type": "Bearer", "expires_in": 600})
	})
	mux.HandleFunc("GET /api/v1/computers-inventory", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer jamf-token" {
			http.Error(w, `{"httpStatus":401}`, http.StatusUnauthorized)
			return
		}
		text, err := os.ReadFile(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answerJSON(w, computersPage(string(text), r))
	})
	server := httptest.NewServer(mux)
	ts.Defer(server.Close)
	ts.Setenv("JAMF", server.URL)
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func computersPage(text string, r *http.Request) map[string]any {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	size, _ := strconv.Atoi(r.URL.Query().Get("page-size"))
	lines := strings.Split(strings.TrimSpace(text), "\n")
	results := []any{}
	for _, line := range lines[min(len(lines), page*size):min(len(lines), (page+1)*size)] {
		f := strings.Fields(line)
		results = append(results, map[string]any{
			"id": f[0], "general": map[string]any{"platform": "Mac", "reportDate": "2026-01-01T16:39:56.307Z"},
			"hardware":        map[string]any{"serialNumber": f[1], "modelIdentifier": "MacBookPro18,3"},
			"operatingSystem": map[string]any{"version": f[2], "build": "23E224"},
		})
	}
	return map[string]any{"totalCount": len(lines), "results": results}
}
