//! Reasons of CONNECT: the credential, the rules, the take-over.

macro_rules! connect_reasons {
    ($($rows:tt)*) => { protocol_reasons! { $($rows)*
        // CONNECT: the credential and the rules.
        NoCredentials "no_credentials" Rules [Connect]
            "nothing was presented";
            "send a SAS token or a password, or connect with a PSK or a certificate";
        CredentialNotAccepted "credential_not_accepted" Rules [Connect]
            "the listener does not take this kind";
            "add the kind to `accept` of the [[listener]], or use another listener";
        ClientIdInvalid "client_id_invalid" Rules [Connect]
            "the client id is no device id, nor device/module";
            "use the device id as client id";
        ClientIdMissing "client_id_missing" Rules [Connect]
            "CONNECT has no client id, and no `assign_client_id` gives one";
            "send the device id, or set `assign_client_id = true`";
        ClientIdMismatch "client_id_mismatch" Rules [Connect]
            "the client id is not the credential's device";
            "use the credential's device id as client id";
        UsernameMalformed "username_malformed" Rules [Connect]
            "with a SAS token: the user name is not `host/client id/?api-version=…`";
            "write the user name in that form";
        UsernameHub "username_hub" Rules [Connect]
            "the user name names another hub";
            "start it with the host of [hub], not with the gateway's name";
        UsernameMissing "username_missing" Rules [Connect]
            "a password without a user name";
            "send the user name too";
        SasMalformed "sas_malformed" Proof [Connect]
            "the token cannot be read";
            "make it with `iothub-gateway token mint`, and compare";
        SasExpired "sas_expired" Proof [Connect]
            "the token is past its end";
            "renew it; compare the device's clock";
        SasLifeTooLong "sas_life_too_long" Proof [Connect]
            "the token ends later than `max_token_life` allows";
            "sign one that ends sooner, or raise `max_token_life`";
        SasScope "sas_scope" Proof [Connect]
            "the token is for another device or hub";
            "sign it for `host/devices/device`";
        SasSignature "sas_signature" Proof [Connect]
            "the signature fits neither key of the device";
            "compare the key in the device with its [[device]]";
        DeviceUnknown "device_unknown" Rules [Connect]
            "no [[device]] with `sas` keys has this id";
            "add one, or correct the device id";
        BadPassword "bad_password" Proof [Connect]
            "user name or password is wrong";
            "compare both with the [[device]]; make the hash anew with `iothub-gateway password`";
        RuleDenied "rule_denied" Rules [Connect]
            "a rule with `deny = true`";
            "change that rule if the device shall connect";
        NoRule "no_rule" Rules [Connect]
            "a CA vouches for it, and no rule admits it";
            "add a [[rule]], or look why each one does not fit";
        DeviceIdInvalid "device_id_invalid" Rules [Connect]
            "the rule's template gives no device id";
            "change `device_id` of the rule, or the name in the credential";
        DeviceReserved "device_reserved" Rules [Connect]
            "the id has a [[device]] of its own";
            "register this credential in that [[device]]";
        DeviceDisabled "device_disabled" Rules [Connect]
            "its [[device]] says `enabled = false`";
            "set `enabled = true` if the device shall connect";
        CredentialsDisagree "credentials_disagree" Rules [Connect]
            "two credentials name different devices";
            "send one credential, or two of the same device";
        PasswordChecksBusy "password_checks_busy" State [Connect]
            "too many password checks wait; the device may come again";
            "raise `limits.password_checks` as far as the CPU allows";
        TakeoverDamped "takeover_damped" State [Connect]
            "the device is taken over too often";
            "look for two clients with one identity";
        TakeoverContended "takeover_contended" State [Connect]
            "another connection of the device already waits to take over";
            "look for two clients with one identity";
        TakeoverStuck "takeover_stuck" State [Connect]
            "the older connection of the device did not end in time";
            "nothing: the device may come again";
        Blocked "blocked" State [Connect]
            "an operator keeps the device out for a time";
            "wait, or let it in with `ctl unblock`";
        PoisonLoop "poison_loop" State [Connect]
            "the device was closed for a refused message again and again, and is paced";
            "see its refusals in the log, and `on_refused` for what a rule can do";
    } };
}
