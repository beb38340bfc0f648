"""Who serves: instances that join and leave, their health, and who may change them."""
