package mdm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// clientCredentials is the grant of RFC 6749, section 4.4, as Jamf Pro and
// Microsoft's login service take it: with the secret in the form.
type clientCredentials struct {
	remote     *remote
	url        *url.URL
	clientID   string
	secretFile string
	scope      string

	mu    sync.Mutex
	token string    // guarded by mu
	until time.Time // guarded by mu
}

// newRemoteWithCredentials is a remote that shows tokens which tokenURL gives
// for the secret in a file.
func newRemoteWithCredentials(cfg Config, clock Clock, tokenURL *url.URL, scope string) (*remote, error) {
	if _, err := readSecret(cfg.ClientSecretFile); err != nil {
		return nil, fmt.Errorf("client_secret_file: %w", err)
	}
	r, err := newRemote(cfg.CAFile, clock)
	if err != nil {
		return nil, err
	}
	login := *r
	login.discreet = true
	c := &clientCredentials{remote: &login, url: tokenURL, clientID: cfg.ClientID, secretFile: cfg.ClientSecretFile, scope: scope}
	r.authorize = c.authorize
	return r, nil
}

// authorize gives a token that is good for a while. A source is read by one
// run at a time, but one that lost its lease may not know it yet.
func (c *clientCredentials) authorize(ctx context.Context, fresh bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !fresh && c.token != "" && c.remote.clock.Now().Before(c.until) {
		return c.token, nil
	}
	secret, err := readSecret(c.secretFile)
	if err != nil {
		return "", failed("client_secret_file: %v", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.clientID}, "client_secret": {secret}}
	if c.scope != "" {
		form.Set("scope", c.scope)
	}
	var body []byte
	err = c.remote.do(ctx, func(string) (*http.Request, error) { return c.request(ctx, form) }, func(res *http.Response) (err error) {
		body, err = readJSON(res)
		return err
	})
	if err != nil {
		return "", err
	}
	return c.keepLocked(body)
}

func (c *clientCredentials) request(ctx context.Context, form url.Values) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, failed("the address of the token cannot be asked")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	return req, nil
}

// keepLocked takes the token out of an answer (RFC 6749, section 5.1), whose text
// stands in no error.
func (c *clientCredentials) keepLocked(body []byte) (string, error) {
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" || strings.ContainsAny(answer.AccessToken, "\r\n") {
		return "", failed("%s gave no token: the answer has no access_token", c.url.Host)
	}
	life := time.Duration(min(max(answer.ExpiresIn, 0), 86400)) * time.Second
	c.token, c.until = answer.AccessToken, c.remote.clock.Now().Add(life-tokenMargin)
	return c.token, nil
}
