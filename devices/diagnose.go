package devices

import (
	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/resource"
	"devicetrust/store"
)

// Diagnose says what a trusted login of user needs of the machine that data
// describes, and whether the inventory has it. credentialID is that of the
// enrollment that the machine remembers; empty is none. Anybody who has a login
// may ask of any tag: of somebody else's device no more is told than that it
// is.
func (i *Inventory) Diagnose(tx *store.Tx, user string, data *dtv1.DeviceData, credentialID string, terms AutoTerms) ([]Finding, error) {
	if err := checkData(data); err != nil {
		return nil, err
	}
	if len(credentialID) > maxCredentialID {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the credential ID is not one")
	}
	d, known, err := i.recognise(tx, data, credentialID)
	if err != nil {
		return nil, err
	}
	if !known {
		return []Finding{{
			Name: "registered", Detail: "device " + data.GetAssetTag() + "/" + data.GetOsType() + " is not registered in " + i.cluster,
			Remedy: registerRemedy(data),
		}}, nil
	}
	enrolled := isEnrolledAs(d, credentialID)
	all := []Finding{
		{Name: "registered", State: OK, Detail: "device " + label(d) + " is registered"},
		enrolled,
	}
	whose := speaksForThem(d, user)
	if all = append(all, whose); whose.State == Fault {
		if enrolled.State == Fault {
			all[1].Remedy = "See to the owner first, below: until then no token helps"
		}
		return all, nil
	}
	keptOut := terms.stands(tx, d)
	if keptOut != nil && refusalOf(keptOut) == nil {
		return nil, keptOut
	}
	frozen := machineNotFrozen(tx, d)
	if frozen != nil && refusalOf(frozen) == nil {
		return nil, frozen
	}
	all = append(all, notKeptOut(refusalOf(keptOut)), answered("frozen", refusalOf(frozen), "it is not frozen"))
	if enrolled.State == OK {
		return append(all, Finding{Name: "auto_enroll", State: Note, Detail: "not needed: the device is enrolled"}), nil
	}
	findings, err := i.autoFindings(tx, d, user, data, terms)
	auto := autoPossible(d, findings)
	if auto.State == OK {
		all[1].Remedy = "Log in again, which enrolls it: dtsh login; or " + tokenRemedy(d)
	}
	return append(all, auto), err
}

// recognise finds the machine by what it remembers, else by its label.
func (i *Inventory) recognise(tx *store.Tx, data *dtv1.DeviceData, credentialID string) (d resource.Device, known bool, err error) {
	var found []resource.Device
	if credentialID != "" {
		if found, err = find(tx, `credential_id = $1`, credentialID); err != nil {
			return d, false, err
		}
	}
	if len(found) == 0 {
		found, err = find(tx, `asset_tag = $1 AND os_type = $2`, data.GetAssetTag(), data.GetOsType())
	}
	if err != nil || len(found) != 1 {
		return d, false, err
	}
	return found[0], true, nil
}

func speaksForThem(d resource.Device, user string) Finding {
	if d.Spec.EnrollStatus == resource.Enrolled {
		return answered("owner", refusalOf(notTheirs(d, user)), "it speaks for "+user)
	}
	f := ownedByNobodyElse(d, user)
	f.Name, f.Inside = "owner", ""
	return f
}

func isEnrolledAs(d resource.Device, credentialID string) Finding {
	f := Finding{Name: "enrolled", Remedy: "Enroll it: " + tokenRemedy(d)}
	switch {
	case d.Spec.EnrollStatus != resource.Enrolled || d.Spec.Credential == nil:
		f.Detail = "device " + label(d) + " is not enrolled"
	case credentialID == "":
		f.Detail = "device " + label(d) + " is enrolled, and this machine remembers no enrollment"
	case d.Spec.Credential.ID != credentialID:
		f.Detail = "device " + label(d) + " is enrolled with another key than the one that this machine remembers"
	default:
		return Finding{Name: "enrolled", State: OK, Detail: "device " + label(d) + " is enrolled with the key that this machine remembers"}
	}
	return f
}

// autoPossible says whether a login would enroll the device.
func autoPossible(d resource.Device, all []Finding) Finding {
	if err := firstFault(all); err != nil {
		r := refusalOf(err)
		return Finding{Name: "auto_enroll", State: Note, Detail: "the next login does not enroll it: " + r.Message, Remedy: r.Hint}
	}
	return Finding{Name: "auto_enroll", State: OK, Detail: "the next login enrolls it: dtsh login"}
}
