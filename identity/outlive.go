package identity

import "time"

// OutliveMost is how long a session may go on when the certificate that it was
// opened with has ended. For so long the certificate can be revoked, which ends
// the session; of one that goes on for longer nobody could take anything away.
const OutliveMost = 7 * 24 * time.Hour
